/* What must hold of the engine's parts. Each function checks one random case, and ends the program if it
 * fails. */
#ifndef PROPERTIES_H
#define PROPERTIES_H

void check_convolution(void);
void check_shares(void);
void check_stem(void);
void check_exponential(void);
void check_head(int classes, int side, int dense);
void check_engine(int classes, int skips, int threads, int bfloat16);

#endif
