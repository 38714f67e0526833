/* The first process of a pod: it waits to be ended, and reaps what other containers of a shared PID namespace left. */
#include <signal.h>
#include <stddef.h>
#include <sys/wait.h>

int main(void) {
    sigset_t awaited;
    int number;

    sigemptyset(&awaited);
    sigaddset(&awaited, SIGCHLD);
    sigaddset(&awaited, SIGINT);
    sigaddset(&awaited, SIGTERM);
    if (sigprocmask(SIG_BLOCK, &awaited, NULL) != 0) return 1;
    for (;;) {
        if (sigwait(&awaited, &number) != 0) return 1;
        if (number != SIGCHLD) return 0;
        while (waitpid(-1, NULL, WNOHANG) > 0) {
        }
    }
}
