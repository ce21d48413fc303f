// SPDX-License-Identifier: GPL-2.0-only
/*
 * What the host knows of the machine and tells on the command line. Without it
 * the kernel measures, with a processor that a busy host takes away for a tenth
 * of a second at any moment: a measurement of the timer that is disturbed so
 * leaves a machine of type microvm, whose only timer it is, without one, and it
 * never boots. Measuring also takes 100 ms of every boot.
 *
 * build.sh adds this file to the kernel's source, which is not changed else.
 */
#include <linux/init.h>
#include <linux/jiffies.h>
#include <linux/kernel.h>
#include <linux/string.h>

#include <asm/apic.h>
#include <asm/cpufeature.h>
#include <asm/x86_init.h>

/* uni.lapic_hz=N: the local APIC's timer counts N times a second, undivided. */
static int __init set_lapic_hz(char *arg)
{
	unsigned int hz;
	int err = kstrtouint(arg, 0, &hz);

	if (!err)
		lapic_timer_period = hz / HZ;
	return err;
}
early_param("uni.lapic_hz", set_lapic_hz);

static unsigned int known_khz;

static unsigned long get_known_khz(void)
{
	return known_khz;
}

/*
 * tsc_early_khz=N, which the kernel has too: here it is also the last word, so
 * that neither the processor's rate is measured nor the counter's later on.
 */
static int __init set_tsc_khz(char *arg)
{
	int err = kstrtouint(arg, 0, &known_khz);

	if (err || !known_khz)
		return err;
	x86_platform.calibrate_cpu = get_known_khz;
	x86_platform.calibrate_tsc = get_known_khz;
	setup_force_cpu_cap(X86_FEATURE_TSC_KNOWN_FREQ);
	return 0;
}
early_param("tsc_early_khz", set_tsc_khz);

static int __init skip_pci(void)
{
	return 0;
}

/*
 * pci=off, which the kernel has too: here it also keeps it from looking for a
 * way to PCI's registers, and from calling it fatal that there is none.
 */
static int __init set_pci(char *arg)
{
	if (arg && !strcmp(arg, "off"))
		x86_init.pci.arch_init = skip_pci;
	return 0;
}
early_param("pci", set_pci);
