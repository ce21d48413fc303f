package k8s

// limits are checks of what containers may do and use.
var limits = []check{
	{"out-of-memory", func(t *try) error {
		return all(
			func() error {
				return t.pod("p", `
  containers:
  - {name: a, image: BUSYBOX, command: [sh, -c, "dd if=/dev/zero of=/dev/null bs=96M count=1; exit 3"], resources: {limits: {memory: 48Mi, cpu: 500m}}}
  - {name: b, image: BUSYBOX, command: [sleep, "1000"], resources: {limits: {memory: 48Mi, cpu: 500m}}}
`)
			},
			func() error {
				return t.until("a restart after an OOM kill", func() (bool, string) {
					got, _ := t.kubectl("get", "pod/p", "-o", `jsonpath={.status.containerStatuses[?(@.name=="a")].lastState.terminated.reason}`)
					return got == "OOMKilled" || got == "Error", got
				})
			},
			func() error {
				return t.field("pod/p", `{.status.containerStatuses[?(@.name=="b")].restartCount}`, "0")
			},
		)
	}},
	{"resize", func(t *try) error {
		return all(
			func() error {
				return t.pod("p", `
  containers: [{name: c, image: BUSYBOX, command: [sleep, "1000"], resources: {requests: {memory: 64Mi, cpu: 100m}, limits: {memory: 96Mi, cpu: 500m}}}]
`)
			},
			func() error { return t.ready("p") },
			func() error {
				_, err := t.kubectl("patch", "pod", "p", "--subresource=resize", "-p",
					`{"spec":{"containers":[{"name":"c","resources":{"limits":{"memory":"80Mi","cpu":"200m"}}}]}}`)
				return err
			},
			func() error { return t.field("pod/p", `{.status.containerStatuses[0].resources.limits.cpu}`, "200m") },
			func() error {
				return t.field("pod/p", `{.status.containerStatuses[0].resources.limits.memory}`, "80Mi")
			},
		)
	}},
	{"security-context", func(t *try) error {
		return all(
			func() error {
				return t.pod("p", `
  securityContext: {runAsUser: 1000, runAsGroup: 3000, fsGroup: 2000, seccompProfile: {type: RuntimeDefault}}
  volumes: [{name: v, emptyDir: {}}]
  containers:
  - name: c
    image: BUSYBOX
    command: [sleep, "1000"]
    securityContext: {readOnlyRootFilesystem: true, allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
    volumeMounts: [{name: v, mountPath: /v}]
`)
			},
			func() error { return t.ready("p") },
			func() error {
				return t.exec("p", "c", "id -u; id -g; touch /x 2>/dev/null || echo ro; touch /v/f && stat -c %g /v/f; grep -E '^(CapBnd|NoNewPrivs|Seccomp):' /proc/self/status | tr -d '\\t'",
					"1000\n3000\nro\n2000\nCapBnd:0000000000000000\nNoNewPrivs:1\nSeccomp:2\n")
			},
		)
	}},
	{"back-off", func(t *try) error {
		return all(
			func() error {
				return t.pod("p", "  containers: [{name: c, image: BUSYBOX, command: [sh, -c, \"exit 3\"]}]\n")
			},
			func() error { return t.field("pod/p", "{.status.containerStatuses[0].restartCount}", "2") },
			func() error {
				return t.field("pod/p", "{.status.containerStatuses[0].state.waiting.reason}", "CrashLoopBackOff")
			},
		)
	}},
}
