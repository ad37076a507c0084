/* A static program for containers of the tests. Commands follow each other, separated by ",". */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static int is(const char *a, const char *b) { return a && strcmp(a, b) == 0; }
static void on_term(int s) { (void)s; _exit(0); }

static void put_file(const char *path) {
    char buffer[4096];
    ssize_t n;
    int fd = open(path, O_RDONLY);
    if (fd < 0) { printf("%s: %s\n", path, strerror(errno)); return; }
    fflush(stdout);
    while ((n = read(fd, buffer, sizeof buffer)) > 0) if (write(1, buffer, n) < 0) return;
    close(fd);
}

static void result(const char *what, long r) { printf("%s: %s\n", what, r < 0 ? strerror(errno) : "ok"); }

/* Runs one command; returns how many arguments it took. */
static int command(char **a) {
    if (is(a[0], "say")) { fputs(a[1], stdout); return 2; }
    if (is(a[0], "err")) { fputs(a[1], stderr); fflush(stderr); return 2; }
    if (is(a[0], "file")) { put_file(a[1]); return 2; }
    if (is(a[0], "link")) {
        char b[512]; ssize_t n = readlink(a[1], b, sizeof b - 1);
        if (n < 0) result(a[1], n); else { b[n] = 0; printf("%s\n", b); }
        return 2;
    }
    if (is(a[0], "write")) {
        int fd = open(a[1], O_WRONLY | O_CREAT, 0644);
        long r = fd < 0 ? -1 : write(fd, a[2], strlen(a[2]));
        result(a[1], r);
        if (fd >= 0) close(fd);
        return 3;
    }
    if (is(a[0], "env")) { char *v = getenv(a[1]); printf("%s=%s\n", a[1], v ? v : "(none)"); return 2; }
    if (is(a[0], "cwd")) { char b[512]; printf("cwd=%s\n", getcwd(b, sizeof b)); return 1; }
    if (is(a[0], "ids")) {
        gid_t g[32]; int n = getgroups(32, g);
        printf("ids=%d:%d", getuid(), getgid());
        for (int i = 0; i < n; i++) printf(",%d", g[i]);
        printf("\n"); return 1;
    }
    if (is(a[0], "mount")) { result("mount", mount("none", "/", "tmpfs", 0, 0)); return 1; }
    if (is(a[0], "unshare")) { result("unshare", unshare(CLONE_NEWUSER)); return 1; }
    if (is(a[0], "clone3")) { result("clone3", syscall(435, 0, 0)); return 1; }
    if (is(a[0], "chown")) { result("chown", chown(a[1], 5, 5)); return 2; }
    if (is(a[0], "mode")) {
        struct stat s;
        if (stat(a[1], &s) < 0) result(a[1], -1); else printf("%s %o %d:%d\n", a[1], s.st_mode, s.st_uid, s.st_gid);
        return 2;
    }
    if (is(a[0], "tty")) {
        struct winsize w = {0};
        ioctl(0, TIOCGWINSZ, &w);
        printf("tty=%d %dx%d %s\n", isatty(0) && isatty(1) && isatty(2), w.ws_col, w.ws_row, ttyname(0));
        return 1;
    }
    if (is(a[0], "echo")) {
        char b[4096]; ssize_t n;
        fflush(stdout);
        while ((n = read(0, b, sizeof b)) > 0) if (write(1, b, n) < 0) return 1;
        return 1;
    }
    if (is(a[0], "hog")) {
        size_t n = (size_t)atoi(a[1]) << 20; char *p = malloc(n);
        for (size_t i = 0; i < n; i += 4096) p[i] = 1;
        printf("hogged %d\n", p[0]); return 2;
    }
    if (is(a[0], "sleep")) { usleep(atoi(a[1]) * 1000); return 2; }
    if (is(a[0], "spawn")) { if (fork() == 0) for (;;) pause(); return 1; }
    if (is(a[0], "fork")) { pid_t p = fork(); if (p == 0) _exit(0); printf("fork: %s\n", p < 0 ? strerror(errno) : "ok"); return 1; }
    if (is(a[0], "count")) {
        for (long i = 0;; i++) { printf("line %ld\n", i); fflush(stdout); usleep(atoi(a[1]) * 1000); }
    }
    if (is(a[0], "run")) { signal(SIGTERM, on_term); for (;;) pause(); }
    if (is(a[0], "exit")) { fflush(stdout); _exit(atoi(a[1])); }
    printf("unknown command %s\n", a[0]);
    return 1;
}

int main(int argc, char **argv) {
    for (int i = 1; i < argc;) {
        if (is(argv[i], ",")) { i++; continue; }
        i += command(argv + i);
        fflush(stdout);
    }
    return 0;
}
