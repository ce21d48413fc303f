// Command probe says what a program sees of the network it is in. It is static,
// so that a guest without anything else can run it.
//
//	probe STEP [then STEP]…
//
//	interfaces         name, MTU and addresses of each but the loopback, a line each
//	get URL…           what each answers
//	udp ADDRESS BYTES  sends a datagram and says how much of it came back
//	loopback           connects to itself on 127.0.0.1
//	cat FILE…          what is in each
//	hostname
//	serve ADDRESS…     answers for ever: HTTP with the client's address, at /zeros/N
//	                   with so many bytes; UDP with what came
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// patience bounds each step but the endless one.
const patience = 20 * time.Second

func main() {
	for step := range slices.Values(split(os.Args[1:], "then")) {
		if err := run(step[0], step[1:]); err != nil {
			fmt.Fprintf(os.Stderr, "probe %s: %v\n", strings.Join(step, " "), err)
			os.Exit(1)
		}
	}
}

func split(args []string, by string) [][]string {
	var out [][]string
	for len(args) > 0 {
		i := slices.Index(args, by)
		if i < 0 {
			return append(out, args)
		}
		out, args = append(out, args[:i]), args[i+1:]
	}
	return out
}

func run(verb string, args []string) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	switch verb {
	case "interfaces":
		return interfaces()
	case "get":
		return each(args, func(url string) error { return get(ctx, url) })
	case "udp":
		return udp(ctx, args[0], args[1])
	case "loopback":
		return loopback(ctx)
	case "cat":
		return each(args, func(path string) error {
			text, err := os.ReadFile(path)
			fmt.Printf("%s", text)
			return err
		})
	case "hostname":
		name, err := os.Hostname()
		fmt.Println(name)
		return err
	case "serve":
		return serve(args)
	default:
		return errors.New("no such step")
	}
}

func each(args []string, do func(string) error) error {
	for _, a := range args {
		if err := do(a); err != nil {
			return err
		}
	}
	return nil
}

func interfaces() error {
	all, err := net.Interfaces()
	if err != nil {
		return err
	}
	for _, i := range all {
		if i.Flags&net.FlagLoopback != 0 {
			continue
		}
		addresses, err := i.Addrs()
		if err != nil {
			return err
		}
		fmt.Print(i.Name, " mtu ", i.MTU, " mac ", i.HardwareAddr)
		for _, a := range addresses {
			fmt.Print(" ", a)
		}
		fmt.Println()
	}
	return nil
}

// get asks until it is answered: a neighbour may not be known yet.
func get(ctx context.Context, url string) error {
	for {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		answer, err := http.DefaultClient.Do(request)
		if err == nil {
			_, err = io.Copy(os.Stdout, answer.Body)
			return errors.Join(err, answer.Body.Close())
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(200 * time.Millisecond):
		}
	}
}

func udp(ctx context.Context, address, size string) error {
	n, err := strconv.Atoi(size)
	if err != nil {
		return err
	}
	conn, err := net.Dial("udp", address)
	if err != nil {
		return err
	}
	defer conn.Close()
	sent, got := bytes.Repeat([]byte{'u'}, n), make([]byte, n)
	for ctx.Err() == nil { // datagrams may be lost
		if _, err = conn.Write(sent); err == nil {
			_ = conn.SetReadDeadline(time.Now().Add(time.Second))
			if _, err = conn.Read(got); err == nil {
				fmt.Printf("%d bytes came back, the same: %t\n", n, bytes.Equal(sent, got))
				return nil
			}
		}
	}
	return err
}

func loopback(ctx context.Context) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	go func() { _ = http.Serve(l, nil) }()
	return get(ctx, "http://"+l.Addr().String()+"/")
}

// serve answers on each address over both protocols.
func serve(addresses []string) error {
	failed := make(chan error)
	answers := http.NewServeMux()
	answers.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		host, _, _ := net.SplitHostPort(r.RemoteAddr)
		fmt.Fprintf(w, "you are %s\n", host)
	})
	answers.HandleFunc("/zeros/{n}", zeros)
	for _, a := range addresses {
		l, err := net.Listen("tcp", a)
		if err != nil {
			return err
		}
		p, err := net.ListenPacket("udp", a)
		if err != nil {
			return err
		}
		go func() { failed <- http.Serve(l, answers) }()
		go func() { failed <- echo(p) }()
	}
	fmt.Println("serving")
	return <-failed
}

// zeros answers with a body of the size that the path names.
func zeros(w http.ResponseWriter, r *http.Request) {
	n, err := strconv.Atoi(r.PathValue("n"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Length", strconv.Itoa(n))
	for buf := make([]byte, 1<<16); n > 0; n -= len(buf) {
		if _, err := w.Write(buf[:min(n, len(buf))]); err != nil {
			return // the client is gone
		}
	}
}

func echo(p net.PacketConn) error {
	buf := make([]byte, 1<<16)
	for {
		n, from, err := p.ReadFrom(buf)
		if err != nil {
			return err
		}
		if _, err := p.WriteTo(buf[:n], from); err != nil {
			return err
		}
	}
}
