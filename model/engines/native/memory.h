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

#endif
