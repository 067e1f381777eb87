/* The team's threads take the next number from a counter. Between two rounds they spin for some
   microseconds, since a network's layers follow each other closely, and then sleep: an idle team costs
   nothing. */
#include "team.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

/* About 50 microseconds of looking before a thread sleeps. */
#define SPINS 2000

struct team {
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

struct worker {
    struct team *team;
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

static void take_tasks(struct team *team, int worker)
{
    int number;
    while ((number = atomic_fetch_add(&team->next, 1)) < team->count)
        team->run(team->context, number, worker);
}

static void await_round(struct team *team, int seen)
{
    for (int spin = 0; spin < SPINS; spin++) {
        if (atomic_load(&team->round) != seen)
            return;
        pause_thread();
    }
    pthread_mutex_lock(&team->mutex);
    atomic_fetch_add(&team->asleep, 1);
    while (atomic_load(&team->round) == seen)
        pthread_cond_wait(&team->woken, &team->mutex);
    atomic_fetch_sub(&team->asleep, 1);
    pthread_mutex_unlock(&team->mutex);
}

static void *work(void *argument)
{
    struct worker self = *(struct worker *)argument;
    struct team *team = self.team;
    free(argument);
    for (int seen = 0;; seen++) {
        await_round(team, seen);
        if (team->stopping)
            return NULL;
        take_tasks(team, self.number);
        if (atomic_fetch_sub(&team->working, 1) == 1 && atomic_load(&team->waiting)) {
            pthread_mutex_lock(&team->mutex);
            pthread_cond_signal(&team->finished);
            pthread_mutex_unlock(&team->mutex);
        }
    }
}

static void begin_round(struct team *team)
{
    atomic_fetch_add(&team->round, 1);
    if (atomic_load(&team->asleep)) {
        pthread_mutex_lock(&team->mutex);
        pthread_cond_broadcast(&team->woken);
        pthread_mutex_unlock(&team->mutex);
    }
}

static void await_workers(struct team *team)
{
    for (int spin = 0; spin < SPINS; spin++) {
        if (atomic_load(&team->working) == 0)
            return;
        pause_thread();
    }
    pthread_mutex_lock(&team->mutex);
    atomic_store(&team->waiting, 1);
    while (atomic_load(&team->working) != 0)
        pthread_cond_wait(&team->finished, &team->mutex);
    atomic_store(&team->waiting, 0);
    pthread_mutex_unlock(&team->mutex);
}

void team_run(struct team *team, int count, task run, void *context)
{
    if (team->size == 1 || count == 1) {
        for (int number = 0; number < count; number++)
            run(context, number, 0);
        return;
    }
    team->run = run;
    team->context = context;
    team->count = count;
    atomic_store(&team->next, 0);
    atomic_store(&team->working, team->size - 1);
    begin_round(team);
    take_tasks(team, 0);
    await_workers(team);
}

struct team *team_start(int size)
{
    struct team *team = calloc(1, sizeof *team);
    if (!team)
        return NULL;
    pthread_mutex_init(&team->mutex, NULL);
    pthread_cond_init(&team->woken, NULL);
    pthread_cond_init(&team->finished, NULL);
    team->size = 1;
    team->threads = calloc(size, sizeof *team->threads);
    while (team->threads && team->size < size) {
        struct worker *worker = malloc(sizeof *worker);
        if (!worker)
            break;
        *worker = (struct worker){team, team->size};
        if (pthread_create(&team->threads[team->size], NULL, work, worker) != 0) {
            free(worker);
            break;
        }
        team->size++;
    }
    if (team->size == size)
        return team;
    team_stop(team);
    return NULL;
}

void team_stop(struct team *team)
{
    team->stopping = 1;
    begin_round(team);
    for (int number = 1; number < team->size; number++)
        pthread_join(team->threads[number], NULL);
    pthread_cond_destroy(&team->finished);
    pthread_cond_destroy(&team->woken);
    pthread_mutex_destroy(&team->mutex);
    free(team->threads);
    free(team);
}

int team_size(const struct team *team) { return team->size; }
