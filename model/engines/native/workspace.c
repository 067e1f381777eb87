/* A workspace keeps its memory for the next canvas of the same size; of a large canvas, only a part. */
#include "workspace.h"

#include "bfloat16.h"
#include "float32.h"
#include "memory.h"

/* The memory that a workspace keeps after a canvas, because fresh memory takes 5 % of a canvas' time: for
   feature maps in the workspace that all threads share and in every other one, and per thread as scratch. */
#define KEPT_BYTES_SHARED (64L << 20)
#define KEPT_BYTES_OTHER (32L << 20)
#define KEPT_BYTES_SCRATCH (8L << 20)

/* Larger feature maps are freed, because returned pages would keep their address space reserved. */
#define KEPT_WHOLE_BYTES (256L << 20)

static int grow(float **memory, long *floats, long wanted)
{
    if (*floats >= wanted)
        return 0;
    free(*memory);
    *memory = allocate_floats(wanted);
    *floats = *memory ? wanted : 0;
    return *memory ? 0 : -1;
}

int workspace_lay_out(struct workspace *workspace, int classes, int skips, int bfloat16, int height,
                      int width)
{
    if (workspace->height == height && workspace->width == width)
        return 0;
    int channels = round_up(classes, GROUP_CHANNELS);
    long floats = bfloat16 ? bfloat16_floats(height, width) : float32_floats(height, width);
    for (int c = 0; c <= skips; c++)
        floats += feature_map_floats(channels, height / stride_with(c), width / stride_with(c));
    workspace->height = workspace->width = 0;
    if (grow(&workspace->memory, &workspace->floats, floats) != 0)
        return -1;
    float *next = workspace->memory;
    for (int c = 0; c <= skips; c++) {
        int h = height / stride_with(c), w = width / stride_with(c);
        workspace->logits[c] = feature_map_in(next, channels, h, w);
        clear_border(&workspace->logits[c]);
        next += feature_map_floats(channels, h, w);
    }
    workspace->maps = next;
    if (bfloat16)
        bfloat16_clear_borders(next, height, width);
    else
        float32_clear_borders(next, height, width);
    workspace->height = height;
    workspace->width = width;
    return 0;
}

int workspace_provide_scratch(struct workspace *workspace, long floats)
{
    return grow(&workspace->scratch, &workspace->scratch_floats, floats);
}

void workspace_trim(struct workspace *workspace, int shared, int threads)
{
    long bytes = workspace->floats * (long)sizeof(float),
         scratch = workspace->scratch_floats * (long)sizeof(float);
    if (bytes > KEPT_WHOLE_BYTES || scratch > threads * KEPT_BYTES_SCRATCH)
        workspace_free(workspace);
    else
        return_pages(workspace->memory, bytes, shared ? KEPT_BYTES_SHARED : KEPT_BYTES_OTHER);
}

void workspace_free(struct workspace *workspace)
{
    free(workspace->memory);
    free(workspace->scratch);
    *workspace = (struct workspace){0};
}
