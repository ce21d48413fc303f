// Package k8s runs a Kubernetes of one node, whose containerd has this runtime
// beside runc, and checks what users' pods do on both.
//
// Cluster starts etcd, the control plane, containerd, the kubelet and kube-proxy in
// the network namespace of the process, which is to have nothing but loopback: the
// node's address is on a link that leads nowhere. It owns their processes, one
// directory and one cgroup. The control plane lets everybody do everything: it
// listens in that namespace alone. Checks are the table of what is tried, each in a
// namespace of Kubernetes of its own.
package k8s
