/* The data that all tasks of one convolution share. */
#ifndef CONVOLUTION_JOB_H
#define CONVOLUTION_JOB_H

#include "convolution.h"

struct convolution_job {
    const struct convolution *convolution;
    const struct feature_map *from, *shortcut, *to;
    int relu;
    float *scratch;
    long scratch_floats;
    /* The tasks are the pairs of a part of the rows or patches, and a part of the groups of output channels.
     */
    int parts, group_parts;
};

/* Adds bias and shortcut to the sums of one pixel, and stores them. */
INLINE void finish(const struct convolution_job *job, int block, int y, int x, vec sum)
{
    sum += load(job->convolution->bias + block * SIMD_WIDTH);
    if (job->shortcut)
        sum += load(pixel(job->shortcut, block, y, x));
    store(pixel(job->to, block, y, x), job->relu ? rectify(sum) : sum);
}

#endif
