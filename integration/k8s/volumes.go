package k8s

import (
	"fmt"
	"os"
	"strings"
)

// volumes are checks of what a pod's containers see of files.
var volumes = []check{
	{"empty-dir", func(t *try) error {
		return all(
			func() error {
				return t.pod("p", `
  volumes: [{name: disk, emptyDir: {}}, {name: memory, emptyDir: {medium: Memory, sizeLimit: 8Mi}}]
  containers:
  - {name: a, image: BUSYBOX, command: [sleep, "1000"], volumeMounts: [{name: disk, mountPath: /d}, {name: memory, mountPath: /m}]}
  - {name: b, image: BUSYBOX, command: [sleep, "1000"], volumeMounts: [{name: disk, mountPath: /d}, {name: memory, mountPath: /m}]}
`)
			},
			func() error { return t.ready("p") },
			func() error { return t.exec("p", "a", "echo x >/d/f; echo y >/m/f; mkfifo /d/p", "") },
			func() error {
				return t.exec("p", "b", "cat /d/f /m/f; stat -f -c %T /m; (echo z >/d/p) & cat /d/p", "x\ny\ntmpfs\nz\n")
			},
			func() error {
				return t.exec("p", "b", "dd if=/dev/zero of=/m/big bs=1M count=20 2>/dev/null || echo full", "full\n")
			},
		)
	}},
	{"config-updates", func(t *try) error {
		config := func(v string) string {
			return "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\ndata: {key: " + v + "}\n---\napiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {key: " + v + "}\n"
		}
		return all(
			func() error { return t.apply(config("one")) },
			func() error {
				return t.pod("p", `
  volumes:
  - {name: c, configMap: {name: c}}
  - {name: s, secret: {secretName: s, defaultMode: 0400}}
  - {name: p, projected: {sources: [{serviceAccountToken: {path: token}}, {downwardAPI: {items: [{path: name, fieldRef: {fieldPath: metadata.name}}]}}]}}
  containers:
  - {name: w, image: PROGRAM, args: [watch, /c], volumeMounts: [{name: c, mountPath: /c}]}
  - name: c
    image: BUSYBOX
    command: [sleep, "1000"]
    env: [{name: IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}, {name: K, valueFrom: {configMapKeyRef: {name: c, key: key}}}]
    volumeMounts: [{name: c, mountPath: /c}, {name: s, mountPath: /s}, {name: p, mountPath: /p}]
`)
			},
			func() error { return t.ready("p") },
			func() error { return t.says("p", "w", "watching") },
			func() error {
				return t.exec("p", "c", "cat /c/key /s/key /p/name; stat -L -c ' %a' /s/key; echo $K; wc -l </p/token; test -n \"$IP\"", "oneonep 400\none\n0\n")
			},
			func() error { return t.apply(config("two")) },
			func() error {
				return t.until("the update is seen", func() (bool, string) {
					got, err := t.kubectl("exec", "p", "-c", "c", "--", "cat", "/c/key", "/s/key")
					return err == nil && got == "twotwo", got
				})
			},
			func() error { return t.says("p", "w", "event ..data") },
		)
	}},
	{"host-path-and-sub-path", func(t *try) error {
		return all(
			func() error {
				return t.pod("p", `
  volumes: [{name: v, hostPath: {path: DIR, type: DirectoryOrCreate}}, {name: e, emptyDir: {}}]
  initContainers: [{name: i, image: BUSYBOX, command: [sh, -c, "mkdir /e/sub; echo in >/e/sub/f"], volumeMounts: [{name: e, mountPath: /e}]}]
  containers:
  - name: c
    image: BUSYBOX
    command: [sh, -c, "echo out >/v/f; exec sleep 1000"]
    volumeMounts: [{name: v, mountPath: /v}, {name: e, mountPath: /s, subPath: sub}, {name: v, mountPath: /r, readOnly: true}]
`)
			},
			func() error { return t.ready("p") },
			func() error { return t.hasFile("f", "out\n") },
			func() error { return t.exec("p", "c", "cat /s/f; touch /r/x 2>/dev/null || echo no", "in\nno\n") },
		)
	}},
	{"claims", func(t *try) error {
		return all(
			func() error { return os.MkdirAll(t.Peer.Dir+"/"+t.namespace, 0o777) },
			func() error {
				return t.apply(strings.ReplaceAll(`
apiVersion: v1
kind: PersistentVolume
metadata: {name: NAME}
spec:
  capacity: {storage: 1Gi}
  accessModes: [ReadWriteOnce]
  persistentVolumeReclaimPolicy: Delete
  storageClassName: NAME
  local: {path: DIR}
  nodeAffinity: {required: {nodeSelectorTerms: [{matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: [node]}]}]}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: v}
spec: {accessModes: [ReadWriteOnce], storageClassName: NAME, volumeName: NAME, resources: {requests: {storage: 1Gi}}}
`, "NAME", t.namespace))
			},
			func() error {
				return t.pod("p", `
  securityContext: {fsGroup: 4242}
  volumes: [{name: v, persistentVolumeClaim: {claimName: v}}]
  containers: [{name: c, image: BUSYBOX, command: [sh, -c, "echo kept >/v/f; exec sleep 1000"], volumeMounts: [{name: v, mountPath: /v}]}]
`)
			},
			func() error { return t.ready("p") },
			func() error { return t.hasFile("f", "kept\n") },
		)
	}},
}

// hasFile waits until a file of the check's directory on the node has a text.
func (t *try) hasFile(name, want string) error {
	path := t.Peer.Dir + "/" + t.namespace + "/" + name
	return t.until(fmt.Sprintf("%s on the node has %q", name, want), func() (bool, string) {
		got, _ := os.ReadFile(path) // it may not be there yet
		return string(got) == want, string(got)
	})
}
