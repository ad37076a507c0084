// A batch program: prints the prime numbers up to a limit, which is its argument or the variable LIMIT.
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv) {
    const char *text = argc > 1 ? argv[1] : getenv("LIMIT");
    char *end = NULL;
    errno = 0;
    const long limit = text ? strtol(text, &end, 10) : 0;
    if (!text || errno || *end || limit < 2 || limit > 100000000) {
        fprintf(stderr, "usage: c-batch LIMIT (2 to 100000000)\n");
        return 2;
    }
    unsigned char *composite = calloc((size_t)limit + 1, 1);
    if (!composite) {
        fprintf(stderr, "no memory for %ld numbers\n", limit);
        return 1;
    }
    long count = 0, last = 0;
    for (long n = 2; n <= limit; n++) {
        if (composite[n]) continue;
        count++;
        last = n;
        for (long m = n * n; m <= limit && n <= limit / n; m += n) composite[m] = 1;
    }
    printf("%ld primes up to %ld, the last is %ld\n", count, limit, last);
    free(composite);
    return 0;
}
