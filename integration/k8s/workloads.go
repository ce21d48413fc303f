package k8s

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// serve is a web server's command for manifests; its page says the pod's name.
const serve = `[sh, -c, "mkdir /tmp/www; hostname >/tmp/www/index.html; exec httpd -f -p 80 -h /tmp/www"]`

// workloads are checks of what controllers and clients do with pods.
var workloads = []check{
	{"deployment-service", func(t *try) error {
		err := t.apply(`
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      runtimeClassName: RUNTIME
      terminationGracePeriodSeconds: 1
      containers:
      - name: web
        image: BUSYBOX
        command: ` + serve + `
        readinessProbe: {httpGet: {port: 80}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80}]}
`)
		if err != nil {
			return err
		}
		if _, err := t.kubectl("rollout", "status", "deployment/web", "--timeout="+waitTimeout.String()); err != nil {
			return err
		}
		ip, err := t.kubectl("get", "service/web", "-o", "jsonpath={.spec.clusterIP}")
		if err != nil {
			return err
		}
		// From another pod, and from the node: over time both replicas answer.
		if err := t.pod("client", `
  restartPolicy: Never
  containers: [{name: c, image: BUSYBOX, command: [sh, -c, "for i in $(seq 30); do wget -q -O - http://`+ip+`/; done | sort -u | wc -l"]}]
`); err != nil {
			return err
		}
		if got, err := t.ended("client", "c", "Succeeded"); err != nil || strings.TrimSpace(got) != "2" {
			return fmt.Errorf("%q replicas answer a pod, want 2: %w", got, err)
		}
		return t.answers("http://"+ip+"/", "web-")
	}},
	{"job", func(t *try) error {
		job := `
apiVersion: batch/v1
kind: Job
metadata: {name: NAME}
spec:
  completions: 2
  parallelism: 2
  backoffLimit: 0
  template:
    spec: {runtimeClassName: RUNTIME, restartPolicy: Never, containers: [{name: c, image: BUSYBOX, command: [sh, -c, "echo done; exit CODE"]}]}
`
		return all(
			func() error { return t.apply(strings.NewReplacer("NAME", "good", "CODE", "0").Replace(job)) },
			func() error { return t.field("job/good", "{.status.succeeded}", "2") },
			func() error { return t.apply(strings.NewReplacer("NAME", "bad", "CODE", "3").Replace(job)) },
			func() error {
				return t.field("job/bad", `{.status.conditions[?(@.type=="Failed")].reason}`, "BackoffLimitExceeded")
			},
		)
	}},
	{"cronjob", func(t *try) error {
		return all(
			func() error {
				return t.apply(`
apiVersion: batch/v1
kind: CronJob
metadata: {name: tick}
spec:
  schedule: "* * * * *"
  jobTemplate: {spec: {template: {spec: {runtimeClassName: RUNTIME, restartPolicy: Never, containers: [{name: c, image: BUSYBOX, command: ["true"]}]}}}}
`)
			},
			func() error {
				return t.until("a job has run", func() (bool, string) {
					got, err := t.kubectl("get", "cronjob/tick", "-o", "jsonpath={.status.lastSuccessfulTime}")
					return err == nil && got != "", got
				})
			},
		)
	}},
	{"init-and-sidecar", func(t *try) error {
		if err := t.pod("p", `
  restartPolicy: Never
  volumes: [{name: v, emptyDir: {}}]
  initContainers:
  - {name: one, image: BUSYBOX, command: [sh, -c, "echo one >/v/order"], volumeMounts: [{name: v, mountPath: /v}]}
  - name: side
    image: BUSYBOX
    restartPolicy: Always
    command: [sh, -c, "echo side >>/v/order; httpd -p 127.0.0.1:8080 -h /v; touch /up; trap 'exit 0' TERM; while :; do sleep 0.1; done"]
    startupProbe: {exec: {command: [test, -e, /up]}, periodSeconds: 1, failureThreshold: 60}
    volumeMounts: [{name: v, mountPath: /v}]
  - {name: two, image: BUSYBOX, command: [sh, -c, "echo two >>/v/order"], volumeMounts: [{name: v, mountPath: /v}]}
  containers: [{name: c, image: BUSYBOX, command: [wget, -q, -O, "-", "http://127.0.0.1:8080/order"]}]
`); err != nil {
			return err
		}
		got, err := t.ended("p", "c", "Succeeded")
		if err == nil && got != "one\nside\ntwo\n" {
			err = fmt.Errorf("order %q", got)
		}
		return err
	}},
	{"probes", func(t *try) error {
		return all(
			func() error {
				return t.pod("p", `
  containers:
  - {name: http, image: BUSYBOX, command: `+serve+`, livenessProbe: {httpGet: {port: 80}, periodSeconds: 2}, readinessProbe: {tcpSocket: {port: 80}, periodSeconds: 1}}
  - {name: grpc, image: PROGRAM, args: [health, ":9000"], readinessProbe: {grpc: {port: 9000}, periodSeconds: 1}}
  - {name: exec, image: BUSYBOX, command: [sh, -c, "touch /ok; exec sleep 1000"], livenessProbe: {exec: {command: [test, -e, /ok]}, periodSeconds: 1, failureThreshold: 2}}
`)
			},
			func() error { return t.ready("p") },
			func() error { return t.exec("p", "exec", "rm /ok", "") },
			func() error {
				return t.field("pod/p", `{.status.containerStatuses[?(@.name=="exec")].restartCount}`, "1")
			},
			func() error { return t.ready("p") },
			func() error {
				return t.field("pod/p", `{.status.containerStatuses[?(@.name=="http")].restartCount}`, "0")
			},
		)
	}},
	{"clients", func(t *try) error {
		return all(
			func() error {
				return t.pod("p", `
  hostname: named
  subdomain: sub
  containers: [{name: c, image: BUSYBOX, command: [sh, -c, "echo begins; httpd -p 127.0.0.1:8080 -h /etc; exec sleep 1000"]}]
`)
			},
			func() error {
				return t.pod("a", `
  restartPolicy: Never
  containers: [{name: c, image: BUSYBOX, stdin: true, command: [sh, -c, "read l; echo got $l"]}]
`)
			},
			func() error { return t.ready("p", "a") },
			func() error {
				_, err := t.kubectlIn("a line\n", "attach", "-i", "a")
				return joined(err, t.says("a", "c", "got a line\n"))
			},
			func() error { return t.says("p", "c", "begins\n") },
			func() error { return t.exec("p", "c", "hostname", "named\n") },
			func() error {
				got, err := t.kubectlIn("through", "exec", "-i", "p", "--", "sh", "-c", "cat; exit 7")
				if got != "through" || err == nil || !strings.Contains(err.Error(), "exit code 7") {
					return fmt.Errorf("exec -i: %q, %w", got, err)
				}
				return nil
			},
			func() error {
				_, in := t.kubectl("cp", t.Peer.Dir+"/resolv.conf", "p:/tmp/copied")
				_, out := t.kubectl("cp", "p:/etc/passwd", t.Peer.Dir+"/passwd-"+t.runtime)
				return joined(in, joined(out, t.exec("p", "c", "cat /tmp/copied", "nameserver 192.0.2.53\n")))
			},
			func() error { return t.forward("p", "8080", "/passwd", "root:x:0:0") },
		)
	}},
	{"debug", func(t *try) error {
		return all(
			func() error {
				return t.pod("p", "  containers: [{name: c, image: BUSYBOX, command: [sleep, \"4321\"]}]\n")
			},
			func() error { return t.ready("p") },
			func() error {
				_, err := t.kubectl("debug", "p", "--image="+Busybox, "--target=c", "--container=d", "--profile=general",
					"--", "sh", "-c", "tr '\\0' ' ' </proc/1/cmdline; echo; sleep 1000")
				return joined(err, t.says("p", "d", "sleep 4321"))
			},
		)
	}},
	{"shared-processes", func(t *try) error {
		return all(
			func() error {
				return t.pod("p", `
  shareProcessNamespace: true
  containers:
  - {name: a, image: BUSYBOX, command: [sleep, "4321"]}
  - {name: b, image: BUSYBOX, command: [sleep, "1000"]}
`)
			},
			func() error { return t.ready("p") },
			func() error { return t.exec("p", "b", "ps | grep -c '[4]321'", "1\n") },
		)
	}},
	{"graceful-end", func(t *try) error {
		return all(
			func() error {
				return t.pod("p", `
  terminationGracePeriodSeconds: 20
  volumes: [{name: v, hostPath: {path: DIR, type: DirectoryOrCreate}}]
  containers:
  - name: c
    image: BUSYBOX
    command: [sh, -c, "trap 'echo term >>/v/order; exit 0' TERM; touch /up; while :; do sleep 0.1; done"]
    readinessProbe: {exec: {command: [test, -e, /up]}, periodSeconds: 1}
    lifecycle: {preStop: {exec: {command: [sh, -c, "echo preStop >>/v/order"]}}}
    volumeMounts: [{name: v, mountPath: /v}]
`)
			},
			func() error { return t.ready("p") },
			func() error {
				_, err := t.kubectl("delete", "pod", "p", "--timeout=60s")
				return err
			},
			func() error { return t.hasFile("order", "preStop\nterm\n") },
		)
	}},
	{"host-port", func(t *try) error {
		return all(
			func() error {
				return t.pod("p", "  containers: [{name: c, image: BUSYBOX, command: "+serve+", ports: [{containerPort: 80, hostPort: 8088}]}]\n")
			},
			func() error { return t.ready("p") },
			func() error { return t.answers("http://"+address+":8088/", "p") },
		)
	}},
}

// answers asks a server from the node until its answer begins with a text.
func (t *try) answers(url, want string) error {
	return t.until(url+" answers", func() (bool, string) {
		client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
		answer, err := client.Get(url)
		if err != nil {
			return false, err.Error()
		}
		defer answer.Body.Close()
		got, err := io.ReadAll(io.LimitReader(answer.Body, 64<<10))
		return err == nil && strings.HasPrefix(string(got), want), string(got)
	})
}

// forward asks a server in a pod through "kubectl port-forward".
func (t *try) forward(pod, port, path, want string) error {
	ctx, cancel := context.WithCancel(t)
	ended := make(chan error, 1)
	go func() {
		_, err := t.Kubectl(ctx, "", "-n", t.namespace, "port-forward", "pod/"+pod, "9090:"+port)
		ended <- err
	}()
	err := t.answers("http://127.0.0.1:9090"+path, want)
	cancel()
	if said := <-ended; err != nil {
		return fmt.Errorf("%w; kubectl: %w", err, said)
	}
	return nil
}

// joined is the first of two errors.
func joined(first, second error) error {
	if first != nil {
		return first
	}
	return second
}
