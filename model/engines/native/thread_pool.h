/* A pool of threads that shares out numbered tasks. Knows nothing of what they do. */
#ifndef THREAD_POOL_H
#define THREAD_POOL_H

struct thread_pool;

/* One task. `thread` is 0 to size - 1 and belongs to one thread while it works. */
typedef void (*task)(void *context, int number, int thread);

/* A pool of `size` threads, the caller's among them; NULL without memory or threads. */
struct thread_pool *thread_pool_start(int size);
void thread_pool_stop(struct thread_pool *pool);
int thread_pool_size(const struct thread_pool *pool);

/* Of the things 0 to count - 1, shared out evenly, the first of part `number` of `parts`. */
static inline int start_of_part(int number, int parts, int count)
{
    return (int)((long)number * count / parts);
}

/* Run the tasks 0 to count - 1, in any order, and wait for all. One caller at a time. */
void thread_pool_run(struct thread_pool *pool, int count, task run, void *context);

#endif
