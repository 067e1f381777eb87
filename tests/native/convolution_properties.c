#include "properties.h"

#include "cases.h"
#include "convolution.h"
#include "network.h"
#include "reference.h"
#include "stem.h"

struct layer {
    struct convolution convolution;
    int in, out, relu;
    struct feature_map from, shortcut;
};

static struct plain run_convolution(const struct layer *layer, struct thread_pool *pool, int with_shortcut)
{
    int height = layer->shortcut.height, width = layer->shortcut.width, size = thread_pool_size(pool);
    long floats = convolution_scratch(&layer->convolution, height, width, size);
    float *scratch = allocate(size * floats * (long)sizeof *scratch);
    struct feature_map to = draw_feature_map(layer->convolution.out_channels, height, width);
    convolve(pool, &layer->convolution, &layer->from, with_shortcut ? &layer->shortcut : NULL, layer->relu,
             &to, scratch, floats);
    struct plain result = plain_copy(&to, layer->out);
    free(memory_of(&to));
    free(scratch);
    return result;
}

void check_convolution(void)
{
    static const int sizes[3][2] = {{3, 1}, {3, 2}, {1, 2}};
    const int *kind = sizes[draw_between(0, 2)], stride = kind[1];
    int height = draw_between(1, 23), width = draw_between(1, 23), with_shortcut = draw_between(0, 1);
    struct layer layer = {.in = draw_between(1, 70), .out = draw_between(1, 70), .relu = draw_between(0, 1)};
    float *kernel = draw_floats((long)layer.out * layer.in * kind[0] * kind[0], 1);
    float *bias = draw_floats(layer.out, 1);
    convolution_pack(&layer.convolution, kernel, bias, layer.out, layer.in, kind[0], stride);
    layer.from = draw_feature_map(layer.convolution.in_channels, stride * height, stride * width);
    layer.shortcut = draw_feature_map(layer.convolution.out_channels, height, width);
    struct plain from = plain_copy(&layer.from, layer.in);
    struct plain shortcut = plain_copy(&layer.shortcut, layer.out);
    struct plain expected = plain_convolve(&from, kernel, bias, layer.out, kind[0], stride), first;
    plain_finish(&expected, with_shortcut ? &shortcut : NULL, layer.relu);
    for (int pool = 0; pool < POOLS; pool++) {
        struct plain found = run_convolution(&layer, pools[pool], with_shortcut);
        if (pool == 0) {
            first = found;
            check_close(&found, &expected);
            continue;
        }
        check_same(&found, &first);
        free(found.values);
    }
    free(first.values), free(expected.values), free(shortcut.values), free(from.values);
    free(memory_of(&layer.from)), free(memory_of(&layer.shortcut));
    convolution_free(&layer.convolution);
    free(kernel), free(bias);
}

/* For an image that no test has the memory for: 214 megapixels and more. */
void check_shares(void)
{
    for (int parts = 1; parts < 1 << 21; parts = parts * 5 / 4 + 1) {
        CHECK(start_of_part(parts, parts, 1 << 24) == 1 << 24, "the last of %d parts ends too early", parts);
        CHECK(start_of_part(parts - 1, parts, 1 << 24) <= start_of_part(parts, parts, 1 << 24), "overflow");
        CHECK(start_of_part(parts - 1, parts, 1 << 24) >= 0, "part %d begins before the image", parts);
    }
}

void check_stem(void)
{
    int height = 32 * draw_between(1, 3), width = 32 * draw_between(1, 3), channels = channels_at(0);
    float *kernel = draw_floats(channels * 3L * STEM_SIZE * STEM_SIZE, 1), *bias = draw_floats(channels, 1);
    float *levels = draw_floats(3 * 256, 1);
    uint8_t *canvas = draw_canvas(height, width);
    struct stem stem;
    stem_pack(&stem, kernel, bias, channels, levels);
    struct plain plain = plain_canvas(canvas, height, width, levels);
    struct plain expected = plain_stem(&plain, kernel, bias), first;
    for (int pool = 0; pool < POOLS; pool++) {
        long floats = stem_scratch(&stem, width);
        float *scratch = allocate(pool_sizes[pool] * floats * (long)sizeof *scratch);
        struct feature_map to = draw_feature_map(channels, height / 4, width / 4);
        stem_apply(pools[pool], &stem, canvas, &to, scratch, floats);
        struct plain found = plain_copy(&to, channels);
        if (pool == 0) {
            first = found;
            check_close(&found, &expected);
        } else {
            check_same(&found, &first);
            free(found.values);
        }
        free(memory_of(&to)), free(scratch);
    }
    free(first.values), free(expected.values), free(plain.values), free(canvas);
    stem_free(&stem);
    free(kernel), free(bias), free(levels);
}
