package libvirt

import "testing"

// TestHalted: dumps as QEMU 7.2 writes them, without the lines that do not matter.
func TestHalted(t *testing.T) {
	const (
		dead     = "CPU#0\r\nRAX=0000000000000000 RBX=0000000000000000\r\nRIP=0000000000100120 RFL=00000046 [---Z-P-] CPL=0 II=0 A20=1 SMM=0 HLT=1\r\nES =0010\r\n"
		idle     = "CPU#0\r\nRIP=0000000000100120 RFL=00000246 [---Z-P-] CPL=0 II=0 A20=1 SMM=0 HLT=1\r\n"
		busy     = "CPU#0\r\nRIP=0000000000100120 RFL=00000046 [---Z-P-] CPL=0 II=0 A20=1 SMM=0 HLT=0\r\n"
		unwaked  = "\r\nCPU#1\r\nEIP=0000fff0 EFL=00000002 [-------] CPL=0 II=0 A20=1 SMM=0 HLT=1\r\n"
		deadToo  = "\r\nCPU#1\r\nEIP=001000f0 EFL=00000012 [-------] CPL=0 II=0 A20=1 SMM=0 HLT=1\r\n"
		idleToo  = "\r\nCPU#1\r\nEIP=001000f0 EFL=00000202 [-------] CPL=0 II=0 A20=1 SMM=0 HLT=1\r\n"
		nonsense = "\r\nCPU#1\r\n"
	)
	for dump, want := range map[string]bool{
		dead: true, idle: false, busy: false, dead + unwaked: true, dead + deadToo: true, dead + idleToo: false, idle + unwaked: false,
		dead + nonsense: false, "": false, "unknown command: 'info'\r\n": false,
	} {
		if got := halted(dump); got != want {
			t.Errorf("%q: %t", dump, got)
		}
	}
}
