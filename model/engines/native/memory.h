/* Memory for floats, aligned, in large pages where the system has them: the weights are read from end to
   end for every canvas, and the page table's cache holds few small ones. */
#ifndef MEMORY_H
#define MEMORY_H

#include <stdlib.h>

#ifdef __linux__
#include <sys/mman.h>
#endif

#define ALIGNMENT 64
#define LARGE_PAGE (2L << 20)

/* To be freed with free(). NULL without memory. */
static inline float *allocate_floats(long count)
{
    long bytes = count * (long)sizeof(float), alignment = bytes < LARGE_PAGE ? ALIGNMENT : LARGE_PAGE;
    float *memory = aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
#ifdef MADV_HUGEPAGE
    if (memory && alignment == LARGE_PAGE)
        madvise(memory, bytes, MADV_HUGEPAGE);
#endif
    return memory;
}

/* Gives the pages behind the first `kept` of `bytes` back to the system. They stay usable, and become
   zeros, as borders are. */
static inline void give_back(float *memory, long bytes, long kept)
{
#ifdef __linux__
    long last = bytes / LARGE_PAGE * LARGE_PAGE;
    if (kept < last)
        madvise((char *)memory + kept, last - kept, MADV_DONTNEED);
#else
    (void)memory, (void)bytes, (void)kept;
#endif
}

#endif
