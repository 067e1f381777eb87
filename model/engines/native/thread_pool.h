/* A pool of threads that runs numbered tasks. Knows nothing of what the tasks do. */
#ifndef THREAD_POOL_H
#define THREAD_POOL_H

struct thread_pool;

/* One task. `thread`, 0 to size - 1, is the number of the thread that runs it. */
typedef void (*task)(void *context, int number, int thread);

/* Starts a pool of `size` threads, including the caller's. Returns NULL without memory or threads. */
struct thread_pool *thread_pool_start(int size);
void thread_pool_stop(struct thread_pool *pool);
int thread_pool_size(const struct thread_pool *pool);

/* Divides the items 0 to count - 1 evenly into `parts`. Returns the first item of part `number`. */
static inline int start_of_part(int number, int parts, int count)
{
    return (int)((long)number * count / parts);
}

/* Runs the tasks 0 to count - 1, in any order, and waits for all. One caller at a time. */
void thread_pool_run(struct thread_pool *pool, int count, task run, void *context);

#endif
