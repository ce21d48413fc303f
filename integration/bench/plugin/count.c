/* A plugin of QEMU's emulator that counts the instructions a guest with one
 * virtual CPU executes, in a file that can be read while it runs:
 *
 *   -plugin count.so,out=FILE
 *
 * A block of translated code counts whole, also where an exception leaves it.
 * Debian packages the interface without its header (qemu-plugin.h); what is
 * used of it is declared here and is the same in its versions 1 to 5, of which
 * QEMU 7.2 takes 1 and QEMU 9 and later 2. */
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))
struct qemu_plugin_tb;
void qemu_plugin_register_vcpu_tb_trans_cb(uint64_t id, void (*translated)(uint64_t id, struct qemu_plugin_tb *));
void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *, void (*executes)(unsigned cpu, void *), int flags, void *);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);

EXPORT int qemu_plugin_version = PLUGIN_VERSION;
static volatile uint64_t *count;

static void executes(unsigned cpu, void *instructions) { *count += (uintptr_t)instructions; }

static void translated(uint64_t id, struct qemu_plugin_tb *block)
{
	qemu_plugin_register_vcpu_tb_exec_cb(block, executes, 0, (void *)qemu_plugin_tb_n_insns(block));
}

EXPORT int qemu_plugin_install(uint64_t id, const void *info, int argc, char **argv)
{
	int fd;

	if (argc != 1 || strncmp(argv[0], "out=", 4))
		return 1;
	fd = open(argv[0] + 4, O_RDWR | O_CREAT | O_TRUNC, 0644);
	if (fd < 0 || ftruncate(fd, sizeof *count))
		return 1;
	count = mmap(NULL, sizeof *count, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (count == MAP_FAILED)
		return 1;
	qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
	return 0;
}
