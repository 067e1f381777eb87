/* The memory of one canvas while the network runs: its feature maps, and scratch memory for the threads. */
#ifndef WORKSPACE_H
#define WORKSPACE_H

#include "feature_map.h"
#include "network.h"

struct workspace {
    float *memory, *scratch;
    long floats, scratch_floats;
    int height, width;
    struct feature_map logits[MAX_SKIPS + 1]; /* of each classifier; the last are the coarse logits */
    float *maps;                              /* the memory of float32_run or bfloat16_run */
};

/* Makes room for the feature maps of a canvas of this size, with borders of zeros. Returns 0, or -1 without
   memory. */
int workspace_lay_out(struct workspace *workspace, int classes, int skips, int bfloat16, int height,
                      int width);

/* Makes room for this much scratch memory. Returns 0, or -1 without memory. */
int workspace_provide_scratch(struct workspace *workspace, long floats);

/* Returns most of the memory of a large canvas to the system. `shared`: whether this is the workspace that
   all threads use together. */
void workspace_trim(struct workspace *workspace, int shared, int threads);
void workspace_free(struct workspace *workspace);

#endif
