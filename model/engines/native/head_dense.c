/* Masks of the canvas' size by a dense product, for trained kernels. */
#include "head_job.h"
#include "product.h"

/* Computes one class' logits in PRODUCT_VECTORS vectors of one row of `rows` tiles. */
INLINE void multiply_tiles(int rows, const float *cells, long tiles, int depth, const float *kernel,
                           float bias, float *to)
{
    vec sums[PRODUCT_ROWS][PRODUCT_VECTORS];
#pragma GCC unroll 12
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int c = 0; c < PRODUCT_VECTORS; c++)
            sums[r][c] = splat(bias);
    for (int k = 0; k < depth; k++, cells += tiles, kernel += TILE)
        add_products(rows, sums, cells, 1, kernel);
    store_sums(rows, sums, to, TILE, SIMD_WIDTH);
}

void head_dense_rows(const struct head_job *job, int first, int rows, int dy, float *logits)
{
    const struct head *head = job->head;
    int classes = head->classes, depth = 4 * classes;
    long tiles = (long)tile_rows(job) * tile_columns(job);
    for (int class = 0; class < classes; class++, logits += PRODUCT_ROWS * TILE)
        for (int vector = 0; vector < TILE_VECTORS; vector += PRODUCT_VECTORS) {
            const float *kernel =
                head->kernel + ((long)dy * classes + class) * depth * TILE + vector * SIMD_WIDTH;
            const float *cells = job->cells + first;
            float bias = head->bias[class], *to = logits + vector * SIMD_WIDTH;
            /* The remainder is computed in halves and quarters, whose size is a constant. */
            for (int done = 0, piece = PRODUCT_ROWS; done < rows; piece = MAX(1, piece / 2))
                for (; done + piece <= rows; done += piece) {
                    if (piece == PRODUCT_ROWS)
                        multiply_tiles(PRODUCT_ROWS, cells + done, tiles, depth, kernel, bias,
                                       to + done * TILE);
                    else if (piece == PRODUCT_ROWS / 2)
                        multiply_tiles(PRODUCT_ROWS / 2, cells + done, tiles, depth, kernel, bias,
                                       to + done * TILE);
                    else if (piece == PRODUCT_ROWS / 4)
                        multiply_tiles(PRODUCT_ROWS / 4, cells + done, tiles, depth, kernel, bias,
                                       to + done * TILE);
                    else
                        multiply_tiles(1, cells + done, tiles, depth, kernel, bias, to + done * TILE);
                }
        }
}

/* Computes row `dy` of all tiles, so that the kernel's weights for that row stay in the cache. */
void head_dense_task(void *context, int dy, int thread)
{
    const struct head_job *job = context;
    int classes = job->head->classes, columns = tile_columns(job);
    float *logits = job->scratch + thread * job->scratch_floats;
    /* Only the lower half of the first row of tiles lies in the image, and the upper half of the last. */
    int first = dy < HALF ? columns : 0, tiles = job->height * columns;
    for (int t = first; t < first + tiles; t += PRODUCT_ROWS) {
        int rows = MIN(PRODUCT_ROWS, first + tiles - t);
        if ((t / columns) * TILE - HALF + dy >= job->region.output_height)
            break;
        head_dense_rows(job, t, rows, dy, logits);
        for (int r = 0; r < rows; r++) {
            int y = (t + r) / columns * TILE - HALF + dy;
            if (y >= job->region.output_height)
                break;
            uint8_t labels[TILE];
            for (int c = 0; c < TILE_VECTORS; c++) {
                const float *from = logits + r * TILE + c * SIMD_WIDTH;
                if (job->confidence) {
                    write_confidences(labels + c * SIMD_WIDTH, from, PRODUCT_ROWS * TILE, classes,
                                      SIMD_WIDTH);
                    continue;
                }
                vec best = load(from);
                int_vec label = {0};
                for (int class = 1; class < classes; class++)
                    take_larger(load(from + (long)class * PRODUCT_ROWS * TILE), class, &best, &label);
                write_labels(labels + c * SIMD_WIDTH, label, SIMD_WIDTH);
            }
            write_tile_row(job, y, (t + r) % columns, labels, TILE);
        }
    }
}
