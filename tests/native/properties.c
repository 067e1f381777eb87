/* What must hold of the native engine's parts for any size, number of classes, region and pool of threads,
   against a plain reference in double. A seed always gives the same cases:

       properties SEED ROUNDS

   tests/native/__main__.py builds and runs it in all SIMD widths, and with sanitizers. */
#include "properties.h"

#include "bfloat16.h"
#include "cases.h"
#include "engine.h"
#include "network.h"

int main(int count, char **arguments)
{
    seed = count > 1 ? strtoull(arguments[1], NULL, 10) * 2654435769u + 1 : 1;
    int rounds = count > 2 ? atoi(arguments[2]) : 10;
    static const int many[] = {1, 2, 21, 100, MAX_CLASSES}, sides[] = {32, 16, 8};
    for (int pool = 0; pool < POOLS; pool++)
        pools[pool] = thread_pool_start(pool_sizes[pool]);
    property = "shares of the work";
    check_shares();
    property = "exponential";
    check_exponential();
    for (int round = 0; round < rounds; round++) {
        property = "convolution";
        check_convolution();
        property = "stem";
        if (round % 4 == 0)
            check_stem();
        property = "bilinear head";
        for (int i = 0; i < 3; i++)
            check_head(many[round % 5], sides[i], 0);
        property = "dense head";
        check_head(many[round % 3], TILE, 1);
    }
    for (int skips = 0; skips <= MAX_SKIPS; skips++) {
        property = "engine";
        check_engine(21, skips, 3, 0);
        property = "engine in bfloat16";
        if (engine_has_bfloat16())
            check_engine(21, skips, 3, 1);
    }
    for (int pool = 0; pool < POOLS; pool++)
        thread_pool_stop(pools[pool]);
    printf("SIMD width %d: %d rounds and the engine hold\n", SIMD_WIDTH, rounds);
    return 0;
}
