/* Ends what amx.h begins. A file that includes amx.h includes this at its end, so there is no guard. */
#ifdef __clang__
#pragma clang attribute pop
#endif
