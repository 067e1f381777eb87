#include "head.h"

#include "head_job.h"
#include "memory.h"

static long cell_floats(const struct head *head, int height, int width)
{
    return head->classes * MAX(4 * (height + 1L) * (width + 1), (height + 2L) * (width + 2));
}

INLINE float read_coarse(const struct feature_map *coarse, int class, int y, int x)
{
    if (y < 0 || x < 0 || y >= coarse->height || x >= coarse->width)
        return 0;
    return pixel(coarse, class / SIMD_WIDTH, y, x)[class % SIMD_WIDTH];
}

/* Gathers (4 * classes, tiles): row k has coarse logit k of each tile. */
static void gather_columns(const struct head *head, const struct feature_map *coarse, float *cells)
{
    for (int corner = 0; corner < 4; corner++)
        for (int class = 0; class < head->classes; class++)
            for (int y = 0; y <= coarse->height; y++)
                for (int x = 0; x <= coarse->width; x++)
                    *cells++ = read_coarse(coarse, class, y - 1 + corner / 2, x - 1 + corner % 2);
}

/* Gathers (height + 2, width + 2, classes) and adds the bias, since a tile's four weights add up to one. */
static void gather_cells(const struct head *head, const struct feature_map *coarse, float *cells)
{
    for (int y = -1; y <= coarse->height; y++)
        for (int x = -1; x <= coarse->width; x++)
            for (int class = 0; class < head->classes; class++)
                *cells++ = read_coarse(coarse, class, y, x) + head->bias[class];
}

void head_apply(struct thread_pool *pool, const struct head *head, const struct feature_map *coarse,
                struct region region, int confidence, uint8_t *mask, float *shared, float *scratch,
                long scratch_floats)
{
    int scaled = region.height != region.output_height || region.width != region.output_width;
    float *cells = shared, *shares = cells + cell_floats(head, coarse->height, coarse->width);
    int *starts = (int *)(shares + (scaled ? region.output_width + SIMD_WIDTH : 0));
    struct head_job job = {head,   region,     coarse->height, coarse->width, cells,         shares,
                           starts, confidence, mask,           scratch,       scratch_floats};
    if (head->kernel)
        gather_columns(head, coarse, cells);
    else
        gather_cells(head, coarse, cells);
    if (scaled && confidence) {
        thread_pool_run(pool, tile_rows(&job), head_confidence_task, &job);
    } else if (scaled) {
        for (int x = 0; x < region.output_width; x++)
            find_source_pixel(x, region.width, region.output_width, shares + x);
        for (int x = 0; x <= region.width; x++)
            starts[x] = find_first_output(x, region.width, region.output_width);
        thread_pool_run(pool, tile_rows(&job), head_scaled_task, &job);
    } else if (head->kernel) {
        thread_pool_run(pool, TILE, head_dense_task, &job);
    } else {
        thread_pool_run(pool, tile_rows(&job), head_bilinear_task, &job);
    }
}

long head_shared_scratch(const struct head *head, int height, int width, int output_width)
{
    return cell_floats(head, height, width) + output_width + SIMD_WIDTH + (long)width * head->side + 1;
}

long head_scratch(const struct head *head, int width, int scaled)
{
    long plane = band_rows(head) * band_line(head, width), band = head->classes * plane + plane / 4;
    return row_floats(head, width) + (scaled ? band : 0) + SIMD_WIDTH;
}

int head_pack(struct head *head, const float *kernel, const float *bias, int classes, int side)
{
    long floats = (long)TILE * classes * 4 * classes * TILE;
    *head = (struct head){classes, side, NULL, allocate_floats(classes)};
    if (!head->bias || (kernel && side != TILE))
        return -1;
    memcpy(head->bias, bias, classes * sizeof(float));
    if (!kernel)
        return 0;
    head->kernel = allocate_floats(floats);
    if (!head->kernel)
        return -1;
    memcpy(head->kernel, kernel, floats * sizeof(float));
    return 0;
}

void head_free(struct head *head)
{
    free(head->kernel);
    free(head->bias);
}
