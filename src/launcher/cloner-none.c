#include "launcher/cloner.h"
#include "launcher/init-image.h"

/*
 * For machines whose system calls we can't make without a function that returns, and for sanitizers, which keep state
 * about the stack: every sandbox begins as a copy.
 */

void cloner_init(Cloner *c) {
        c->usable = false;
        c->suid_dumpable_fd = -1;
}

void cloner_deinit(Cloner *c) {
}

pid_t cloner_clone(Cloner *c, struct clone_args *args, ClonerRun run, void *userdata) {
        return -EAGAIN;
}

int init_image_open(int *ret_fd) {
        return -ENOSYS;
}

void init_image_exec(int image_fd, pid_t agent, int status_fd) {
}
