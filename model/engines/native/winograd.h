/* Winograd's convolution of size 3 and stride 1: A. Lavin, S. Gray, "Fast Algorithms for Convolutional Neural
   Networks", 2015, F(4 x 4, 3 x 3). A patch of 4 x 4 outputs takes 36 products, a direct one 144. */
#ifndef WINOGRAD_H
#define WINOGRAD_H

#include "convolution_job.h"

#define PATCH 4
#define INPUT_PATCH (PATCH + 2)
#define POSITIONS (INPUT_PATCH * INPUT_PATCH)

/* Computes a convolution with `winograd` set. Sets the parts of `job`. */
void winograd_convolve(struct thread_pool *pool, struct convolution_job *job);

/* The scratch memory, in floats, that each thread needs for an output of this size. */
long winograd_scratch(const struct convolution *convolution, int height, int width, int threads);

/* Transforms the kernel to (POSITIONS, groups, in_padded, GROUP_CHANNELS). `to` must be zero before. */
void winograd_pack(float *to, const float *kernel, int out, int in, int in_padded, int groups);

#endif
