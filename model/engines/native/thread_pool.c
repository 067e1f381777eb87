/* Threads take the next task's number from a counter. After a round they spin for some microseconds, because
   the network's next layer follows at once, and then sleep, so that an idle pool uses no processor time. */
#include "thread_pool.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

/* About 50 microseconds, after which a thread sleeps. */
#define SPINS 2000

struct thread_pool {
    int size;
    pthread_t *threads;
    pthread_mutex_t mutex;
    pthread_cond_t woken, finished;
    atomic_int round;   /* a new number is a new round of tasks, or the end */
    atomic_int next;    /* the next task's number */
    atomic_int working; /* threads that have not finished this round */
    atomic_int asleep;  /* threads that wait for `woken` */
    atomic_int waiting; /* whether the caller waits for `finished` */
    int stopping, count;
    task run;
    void *context;
};

struct thread {
    struct thread_pool *pool;
    int number;
};

static inline void pause_thread(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static void take_tasks(struct thread_pool *pool, int thread)
{
    int number;
    while ((number = atomic_fetch_add(&pool->next, 1)) < pool->count)
        pool->run(pool->context, number, thread);
}

static void await_round(struct thread_pool *pool, int seen)
{
    for (int spin = 0; spin < SPINS; spin++) {
        if (atomic_load(&pool->round) != seen)
            return;
        pause_thread();
    }
    pthread_mutex_lock(&pool->mutex);
    atomic_fetch_add(&pool->asleep, 1);
    while (atomic_load(&pool->round) == seen)
        pthread_cond_wait(&pool->woken, &pool->mutex);
    atomic_fetch_sub(&pool->asleep, 1);
    pthread_mutex_unlock(&pool->mutex);
}

static void *work(void *argument)
{
    struct thread self = *(struct thread *)argument;
    struct thread_pool *pool = self.pool;
    free(argument);
    for (int seen = 0;; seen++) {
        await_round(pool, seen);
        if (pool->stopping)
            return NULL;
        take_tasks(pool, self.number);
        if (atomic_fetch_sub(&pool->working, 1) == 1 && atomic_load(&pool->waiting)) {
            pthread_mutex_lock(&pool->mutex);
            pthread_cond_signal(&pool->finished);
            pthread_mutex_unlock(&pool->mutex);
        }
    }
}

static void begin_round(struct thread_pool *pool)
{
    atomic_fetch_add(&pool->round, 1);
    if (atomic_load(&pool->asleep)) {
        pthread_mutex_lock(&pool->mutex);
        pthread_cond_broadcast(&pool->woken);
        pthread_mutex_unlock(&pool->mutex);
    }
}

static void await_threads(struct thread_pool *pool)
{
    for (int spin = 0; spin < SPINS; spin++) {
        if (atomic_load(&pool->working) == 0)
            return;
        pause_thread();
    }
    pthread_mutex_lock(&pool->mutex);
    atomic_store(&pool->waiting, 1);
    while (atomic_load(&pool->working) != 0)
        pthread_cond_wait(&pool->finished, &pool->mutex);
    atomic_store(&pool->waiting, 0);
    pthread_mutex_unlock(&pool->mutex);
}

void thread_pool_run(struct thread_pool *pool, int count, task run, void *context)
{
    if (pool->size == 1 || count == 1) {
        for (int number = 0; number < count; number++)
            run(context, number, 0);
        return;
    }
    pool->run = run;
    pool->context = context;
    pool->count = count;
    atomic_store(&pool->next, 0);
    atomic_store(&pool->working, pool->size - 1);
    begin_round(pool);
    take_tasks(pool, 0);
    await_threads(pool);
}

struct thread_pool *thread_pool_start(int size)
{
    struct thread_pool *pool = calloc(1, sizeof *pool);
    if (!pool)
        return NULL;
    pthread_mutex_init(&pool->mutex, NULL);
    pthread_cond_init(&pool->woken, NULL);
    pthread_cond_init(&pool->finished, NULL);
    pool->size = 1;
    pool->threads = calloc(size, sizeof *pool->threads);
    while (pool->threads && pool->size < size) {
        struct thread *thread = malloc(sizeof *thread);
        if (!thread)
            break;
        *thread = (struct thread){pool, pool->size};
        if (pthread_create(&pool->threads[pool->size], NULL, work, thread) != 0) {
            free(thread);
            break;
        }
        pool->size++;
    }
    if (pool->size == size)
        return pool;
    thread_pool_stop(pool);
    return NULL;
}

void thread_pool_stop(struct thread_pool *pool)
{
    pool->stopping = 1;
    begin_round(pool);
    for (int number = 1; number < pool->size; number++)
        pthread_join(pool->threads[number], NULL);
    pthread_cond_destroy(&pool->finished);
    pthread_cond_destroy(&pool->woken);
    pthread_mutex_destroy(&pool->mutex);
    free(pool->threads);
    free(pool);
}

int thread_pool_size(const struct thread_pool *pool) { return pool->size; }
