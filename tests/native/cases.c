#include "cases.h"

const int pool_sizes[POOLS] = {1, 2, 3, 5};
struct thread_pool *pools[POOLS];
const char *property = "";
uint64_t seed;

static uint64_t draw(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed;
}

int draw_between(int low, int high) { return low + (int)(draw() >> 33) % (high - low + 1); }
static float draw_symmetric(void)
{
    return (draw_between(0, 1 << 20) + draw_between(0, 1 << 20)) / (float)(1 << 20) - 1;
}

void *allocate(long bytes)
{
    void *memory = aligned_alloc(ALIGNMENT, (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT);
    CHECK(memory, "no memory for %ld bytes", bytes);
    return memory;
}

float *draw_floats(long count, float scale)
{
    float *values = allocate(count * (long)sizeof *values);
    for (long i = 0; i < count; i++)
        values[i] = scale * draw_symmetric();
    return values;
}

struct feature_map draw_feature_map(int channels, int height, int width)
{
    struct feature_map map =
        feature_map_in(draw_floats(feature_map_floats(channels, height, width), 1), channels, height, width);
    clear_border(&map);
    return map;
}

float *memory_of(const struct feature_map *map) { return pixel(map, 0, -1, -1); }

uint8_t *draw_canvas(int height, int width)
{
    uint8_t *canvas = allocate(3L * height * width);
    for (long i = 0; i < 3L * height * width; i++)
        canvas[i] = (uint8_t)draw_between(0, FIRST_HUGE_LEVEL - 1);
    return canvas;
}

struct region draw_region(int height, int width)
{
    struct region region = {draw_between(1, height), draw_between(1, width), 0, 0};
    if (draw_between(0, 1)) {
        region.output_height = draw_between(1, 150);
        region.output_width = draw_between(1, 200); /* more than the head computes at once */
    } else {
        region.output_height = region.height;
        region.output_width = region.width;
    }
    return region;
}
