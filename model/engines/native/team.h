/* A team of threads that shares out numbered tasks. Knows nothing of what they do. */
#ifndef TEAM_H
#define TEAM_H

struct team;

/* One task. `worker` is 0 to size - 1 and belongs to one thread while it works. */
typedef void (*task)(void *context, int number, int worker);

/* A team of `size` threads, the caller's among them; NULL without memory or threads. */
struct team *team_start(int size);
void team_stop(struct team *team);
int team_size(const struct team *team);

/* Of the things 0 to count - 1, shared out evenly, the first of part `number` of `parts`. */
static inline int first_of(int number, int parts, int count) { return (int)((long)number * count / parts); }

/* Run the tasks 0 to count - 1, in any order, and wait for all. One caller at a time. */
void team_run(struct team *team, int count, task run, void *context);

#endif
