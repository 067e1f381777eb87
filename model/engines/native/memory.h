/* Aligned memory for floats, in large pages if the system has them: every canvas reads all weights, and the
   processor's cache of page addresses (TLB) holds few small pages. */
#ifndef MEMORY_H
#define MEMORY_H

#include <stdlib.h>

#ifdef __linux__
#include <sys/mman.h>
#endif

#define ALIGNMENT 64
#define LARGE_PAGE (2L << 20)

/* Returns memory that free() releases, or NULL. */
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

/* Returns the pages after the first `kept` of `bytes` to the system. They stay usable and become zeros, which
   borders must be. */
static inline void return_pages(float *memory, long bytes, long kept)
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
