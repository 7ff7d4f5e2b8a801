#pragma once

/*
 * cloner: clones a sandbox's first process so that it shares our memory, as vfork(2), until it executes another program
 * or ends. A copy of our page tables, and the faults that follow in both, would cost more than all else of a start. A
 * thread that vforks is asleep until then, so each such clone is made by a thread of its own, and the loop goes on: a
 * child may wait long, for the file system of a workspace that its owner serves.
 *
 * What the child may do: system calls, and writes to its own stack and to what it was given. No allocation, no lock,
 * no library call that keeps state (nor setuid() and its like, which mean all threads): it may be killed at any moment,
 * and must leave this memory whole. It has the errno of its thread. We are not dumpable, so neither is the child,
 * whatever ids it takes on: no process of the task's user can look into it, or us.
 */

#include <linux/sched.h>
#include <pthread.h>
#include <semaphore.h>

#include "base/macro.h"

/* A start takes a few ms of a processor: more at once only wait for each other. */
#define CLONER_THREADS 8

typedef struct Cloner Cloner;
typedef struct ClonerThread ClonerThread;

struct ClonerThread {
        Cloner *cloner;
        pthread_t thread;
        bool made;
        bool stop;
        _Atomic(bool) busy;     /* until the child has its own memory, or is gone */
        sem_t work;
        sem_t started;          /* the child runs, or there is none; anew for each */
        struct clone_args *args;
        void (*run)(void *userdata, void *stack);       /* never returns */
        void *userdata;
        pid_t pid;              /* written by the kernel, before the child runs */
        int error;
};

struct Cloner {
        bool usable;
        bool stuck;             /* all threads were busy for too long: don't wait for one until one is free again */
        sem_t idle;
        ClonerThread threads[CLONER_THREADS];
};

#define CLONER_STACK KIB(64)    /* of the second stack that run() is given */

/* Says whether this machine allows it; without, every clone answers EAGAIN. */
void cloner_init(Cloner *c);
/* Every child has ended. */
void cloner_deinit(Cloner *c);
/*
 * Clones with these flags and more, and calls run() in the child: with userdata, and the end of a stack of CLONER_STACK
 * bytes for a child of its own. Returns the pid once the child runs; its descriptors are copies by then, its memory is
 * ours until it is done with it. -EAGAIN: every thread is taken, or can't be had: copy instead. Else -errno of
 * clone3(2).
 */
pid_t cloner_clone(Cloner *c, struct clone_args *args, void (*run)(void *userdata, void *stack), void *userdata);
