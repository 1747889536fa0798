#include <stdio.h>
#include <stdlib.h>

#include "sieve.h"

int main(int argc, char **argv)
{
	size_t n = argc > 1 ? strtoul(argv[1], NULL, 10) : 0;
	unsigned char *composite = calloc(n + 1, 1);

	if (!composite)
		return 1;
	sieve(composite, n);
	for (size_t i = 2; i < n; i++)
		if (!composite[i])
			printf("%s%zu", i > 2 ? " " : "", i);
	puts("");
	free(composite);
	return 0;
}
