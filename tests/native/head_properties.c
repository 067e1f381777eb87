#include "properties.h"

#include "cases.h"
#include "head.h"
#include "reference.h"

#include <math.h>

/* The logits of all pixels of a canvas, each from the four coarse ones around its tile. */
static struct plain plain_logits(const struct plain *coarse, const float *kernel, const float *bias, int side)
{
    int classes = coarse->channels;
    struct plain logits = plain_zeros(classes, side * coarse->height, side * coarse->width);
    for (int y = 0; y < logits.height; y++)
        for (int x = 0; x < logits.width; x++) {
            int dy = (y + side / 2) % side, dx = (x + side / 2) % side;
            double down = (dy + .5) / side, right = (dx + .5) / side;
            for (int corner = 0; corner < 4; corner++) {
                int row = (y + side / 2) / side - 1 + corner / 2;
                int column = (x + side / 2) / side - 1 + corner % 2;
                if (row < 0 || column < 0 || row >= coarse->height || column >= coarse->width)
                    continue;
                double weight = (corner / 2 ? down : 1 - down) * (corner % 2 ? right : 1 - right);
                for (int c = 0; c < classes; c++)
                    for (int i = kernel ? 0 : c; i < (kernel ? classes : c + 1); i++)
                        *plain_at(&logits, c, y, x) +=
                            *plain_at(coarse, i, row, column) *
                            (kernel ? kernel[(((long)dy * classes + c) * 4 + corner) * classes * TILE +
                                             (long)i * TILE + dx]
                                    : weight);
            }
            for (int c = 0; c < classes; c++)
                *plain_at(&logits, c, y, x) += bias[c];
        }
    return logits;
}

/* Where pixel `i` of `output` lies in `source`, and how far before the next. */
static int plain_source(int i, int source, int output, double *share)
{
    double position = fmax((i + .5) * source / output - .5, 0);
    int first = MIN((int)position, source - 1);
    *share = position - first;
    return first;
}

static double scaled_logit(const struct plain *logits, const struct region *region, int class, int y, int x)
{
    double down, right;
    int row = plain_source(y, region->height, region->output_height, &down);
    int column = plain_source(x, region->width, region->output_width, &right);
    int below = MIN(row + 1, region->height - 1), next = MIN(column + 1, region->width - 1);
    double above =
        *plain_at(logits, class, row, column) * (1 - right) + *plain_at(logits, class, row, next) * right;
    double under =
        *plain_at(logits, class, below, column) * (1 - right) + *plain_at(logits, class, below, next) * right;
    return above * (1 - down) + under * down;
}

/* Each pixel's class has the largest logit, up to rounding. */
static void check_mask(const uint8_t *mask, const struct plain *logits, const struct region *region)
{
    double allowed = 1e-5 * largest(logits);
    for (int y = 0; y < region->output_height; y++)
        for (int x = 0; x < region->output_width; x++) {
            int class = mask[(long)y * region->output_width + x];
            CHECK(class < logits->channels, "class %d of %d at %d, %d", class, logits->channels, y, x);
            double own = scaled_logit(logits, region, class, y, x);
            for (int other = 0; other < logits->channels; other++) {
                double logit = scaled_logit(logits, region, other, y, x);
                CHECK(own >= logit - allowed, "class %d (%g) at %d, %d, where %d has %g", class, own, y, x,
                      other, logit);
            }
        }
}

/* Each pixel is the softmax of the largest logit, times 255 and rounded, up to ties. */
static void check_confidence(const uint8_t *confidence, const struct plain *logits,
                             const struct region *region)
{
    double allowed = .5 + 255 * 1e-5 * largest(logits);
    for (int y = 0; y < region->output_height; y++)
        for (int x = 0; x < region->output_width; x++) {
            double best = -INFINITY, total = 0;
            for (int class = 0; class < logits->channels; class++)
                best = fmax(best, scaled_logit(logits, region, class, y, x));
            for (int class = 0; class < logits->channels; class++)
                total += exp(scaled_logit(logits, region, class, y, x) - best);
            int found = confidence[(long)y * region->output_width + x];
            CHECK(fabs(found - 255 / total) <= allowed, "confidence %d instead of %g at %d, %d", found,
                  255 / total, y, x);
        }
}

/* The exponential's relative error, down to where the confidence no longer shows it. */
void check_exponential(void)
{
    for (int i = 0; i <= 100000; i++) {
        float x = i * -1e-3f;
        double found = exponential(splat(x))[0], expected = exp(x);
        CHECK(fabs(found - expected) <= 4e-7 * expected + 2e-38, "e^%g is %g instead of %g", x, found,
              expected);
    }
    CHECK(exponential(splat(-INFINITY))[0] < 1e-37 && exponential(splat(0))[0] == 1, "e^-inf or e^0");
}

static uint8_t *run_head(struct thread_pool *pool, const struct head *head, const struct feature_map *coarse,
                         const struct region *region, int confidence)
{
    int scaled = region->height != region->output_height || region->width != region->output_width;
    long shared = head_shared_scratch(head, coarse->height, coarse->width, region->output_width);
    long floats = head_scratch(head, coarse->width, scaled);
    float *scratch = allocate(thread_pool_size(pool) * floats * (long)sizeof *scratch);
    float *common = allocate(shared * (long)sizeof *common);
    /* The mask's own size, to the byte. */
    uint8_t *mask = malloc((long)region->output_height * region->output_width);
    head_apply(pool, head, coarse, *region, confidence, mask, common, scratch, floats);
    free(common), free(scratch);
    return mask;
}

void check_head(int classes, int side, int dense)
{
    int height = draw_between(1, 3), width = draw_between(1, 4);
    float *bias = draw_floats(classes, 1);
    float *kernel = dense ? draw_floats(4L * TILE * TILE * classes * classes, 1) : NULL;
    struct head head;
    head_pack(&head, kernel, bias, classes, side);
    struct feature_map map = draw_feature_map(round_up(classes, GROUP_CHANNELS), height, width);
    struct plain coarse = plain_copy(&map, classes), logits = plain_logits(&coarse, kernel, bias, side);
    struct region region = draw_region(side * height, side * width);
    for (int confidence = 0; confidence < 2; confidence++) {
        uint8_t *first = run_head(pools[0], &head, &map, &region, confidence);
        (confidence ? check_confidence : check_mask)(first, &logits, &region);
        for (int pool = 1; pool < POOLS; pool++) {
            uint8_t *other = run_head(pools[pool], &head, &map, &region, confidence);
            CHECK(memcmp(other, first, (long)region.output_height * region.output_width) == 0,
                  "the bytes depend on the number of threads");
            free(other);
        }
        free(first);
    }
    free(logits.values), free(coarse.values), free(memory_of(&map));
    head_free(&head);
    free(kernel), free(bias);
}
