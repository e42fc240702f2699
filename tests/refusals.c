/* A file system that refuses: preloaded into a process, before the system's own functions.
 *
 * NO_LOCKS=n: every lock is answered by error n.
 * REFUSED=name, REFUSE_OPEN=n or REFUSE_READ=n: files whose path holds the name are not opened, or not read.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static int wanted(const char *variable) {
    const char *value = getenv(variable);
    return value && *value ? atoi(value) : 0;
}

static int refused(const char *path, const char *variable) {
    const char *name = getenv("REFUSED");
    int number = wanted(variable);
    return name && *name && path && number && strstr(path, name) ? number : 0;
}

int flock(int file, int operation) {
    int number = wanted("NO_LOCKS");
    if (number) { errno = number; return -1; }
    return ((int (*)(int, int))dlsym(RTLD_NEXT, "flock"))(file, operation);
}

#define OPENS(name)                                                                   \
    int name(const char *path, int flags, ...) {                                      \
        int number = refused(path, "REFUSE_OPEN");                                    \
        va_list rest;                                                                 \
        va_start(rest, flags);                                                        \
        mode_t mode = flags & O_CREAT ? va_arg(rest, mode_t) : 0;                     \
        va_end(rest);                                                                 \
        if (number) { errno = number; return -1; }                                    \
        return ((int (*)(const char *, int, ...))dlsym(RTLD_NEXT, #name))(path, flags, mode); \
    }
OPENS(open)
OPENS(open64)

static int unreadable(int file) {
    char link[64], path[4096];
    if (!wanted("REFUSE_READ")) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return refused(path, "REFUSE_READ");
}

#define READS(name, offset)                                                           \
    ssize_t name(int file, void *buffer, size_t count, offset place) {                \
        int number = unreadable(file);                                                \
        if (number) { errno = number; return -1; }                                    \
        return ((ssize_t (*)(int, void *, size_t, offset))dlsym(RTLD_NEXT, #name))(   \
            file, buffer, count, place);                                              \
    }
READS(pread, off_t)
READS(pread64, off64_t)

ssize_t read(int file, void *buffer, size_t count) {
    int number = unreadable(file);
    if (number) { errno = number; return -1; }
    return ((ssize_t (*)(int, void *, size_t))dlsym(RTLD_NEXT, "read"))(file, buffer, count);
}
