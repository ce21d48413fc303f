// A kernel that writes its command line to the serial port and then does what
// the last word of that says:
//
//	exit=N    ends the machine with a status (QEMU's isa-debug-exit)
//	poweroff  powers off by ACPI, on machine type pc
//	fault     has its machine reset by a triple fault
//	panic     reports a panic (QEMU's pvpanic)
//	wait      waits for the power button, on machine type pc, and powers off
//
// Anything else makes it halt.

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;

// I/O ports of QEMU's machine types: COM1, the ACPI registers where SeaBIOS puts
// them, and the devices named above.
enum { COM1 = 0x3f8, PM1_STATUS = 0x600, PM1_ENABLE = 0x602, PM1_CONTROL = 0x604, DEBUG_EXIT = 0x501, PVPANIC = 0x505 };

// Bits of the ACPI registers (ACPI specification 6.5, 4.8.3).
enum { POWER_BUTTON = 1 << 8, SLEEP = 1 << 13 };

// How the protocols say who they are. QEMU's qboot sets multiboot's magic for PVH
// too.
enum { MULTIBOOT_MAGIC = 0x2BADB002, PVH_MAGIC = 0x336ec578 };

static void outb(u16 port, u8 v) { __asm__ volatile("outb %0, %1" : : "a"(v), "Nd"(port)); }
static void outw(u16 port, u16 v) { __asm__ volatile("outw %0, %1" : : "a"(v), "Nd"(port)); }
static u8 inb(u16 port) { u8 v; __asm__ volatile("inb %1, %0" : "=a"(v) : "Nd"(port)); return v; }
static u16 inw(u16 port) { u16 v; __asm__ volatile("inw %1, %0" : "=a"(v) : "Nd"(port)); return v; }

static void put(const char *s)
{
	for (; *s; s++) {
		while (!(inb(COM1 + 5) & 0x20))
			;
		outb(COM1, *s);
	}
}

// after returns what follows prefix in s, or 0.
static const char *after(const char *s, const char *prefix)
{
	for (; *prefix; prefix++, s++)
		if (*s != *prefix)
			return 0;
	return s;
}

static void fault(void)
{
	struct { u16 limit; u32 base; } __attribute__((packed)) none = { 0, 0 };
	__asm__ volatile("lidt %0; int3" : : "m"(none));
}

static void wait(void)
{
	outw(PM1_ENABLE, POWER_BUTTON);
	put("waiting\n");
	while (!(inw(PM1_STATUS) & POWER_BUTTON))
		;
	put("button\n");
	outw(PM1_CONTROL, SLEEP);
}

static void obey(const char *word)
{
	const char *number = after(word, "exit=");
	u16 status = 0;
	if (number) {
		for (; *number >= '0' && *number <= '9'; number++)
			status = status * 10 + (*number - '0');
		outw(DEBUG_EXIT, status);
	}
	if (after(word, "poweroff"))
		outw(PM1_CONTROL, SLEEP);
	if (after(word, "fault"))
		fault();
	if (after(word, "panic"))
		outb(PVPANIC, 1);
	if (after(word, "wait"))
		wait();
}

void run(u32 magic, const u32 *info)
{
	const char *line = "", *word;
	if (info[0] == PVH_MAGIC) {
		put("PVH: ");
		line = (const char *)info[6];
	} else if (magic == MULTIBOOT_MAGIC) {
		put("multiboot: ");
		line = (const char *)info[4];
	}
	put(line);
	put("\n");
	for (word = line; *line; line++)
		if (*line == ' ')
			word = line + 1;
	obey(word);
	for (;;)
		__asm__ volatile("cli; hlt");
}
