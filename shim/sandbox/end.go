package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"containerd-shim-uni/shim/cgroup"
	"containerd-shim-uni/shim/share"
	"containerd-shim-uni/unikernel"

	"github.com/moby/sys/mountinfo"
)

// watch begins to wait for the end of the machine there is. One machine is
// watched at a time.
func (s *Sandbox) watch() {
	ctx, cancel := context.WithCancel(s.watching)
	done := make(chan struct{})
	s.unwatch = func() { cancel(); <-done }
	s.watchers.Go(func() {
		defer close(done)
		if end, ok := s.await(ctx); ok {
			s.noteEnd(end)
		}
	})
}

// await returns how the machine ended, from libvirt or, when libvirt cannot
// tell, from its process. It is not ok if ctx ended first.
func (s *Sandbox) await(ctx context.Context) (_ unikernel.End, ok bool) {
	end, err := s.machines.Wait(ctx, s.names.Domain())
	if err == nil {
		return end, true
	}
	if ctx.Err() == nil && !errors.Is(err, unikernel.ErrNotFound) {
		s.log().WithError(err).Warn("libvirt does not watch the machine any more; its process is watched instead")
	}
	if err := s.vm.wait(ctx); err != nil && ctx.Err() == nil && !errors.Is(err, errNoDescriptor) {
		s.log().WithError(err).Error("the machine cannot be watched")
	}
	return unikernel.End{Reason: unikernel.EndUnknown, At: time.Now(), Detail: err.Error()}, ctx.Err() == nil
}

// noteEnd records how the machine ended; only the first to know counts.
func (s *Sandbox) noteEnd(end unikernel.End) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.allow(opEnd) == nil {
		s.end = end
		close(s.ended)
	}
}

// Ended is closed when the machine has ended.
func (s *Sandbox) Ended() <-chan struct{} { return s.ended }

// End is how the machine ended, once Ended is closed.
func (s *Sandbox) End() unikernel.End {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.end
}

// endWithin waits a bounded time for the machine's end.
func (s *Sandbox) endWithin(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-s.ended:
		return true
	case <-timer.C:
		return false
	}
}

// Destroy ends the machine as a power cut would, by libvirt or, if that fails,
// by its process.
func (s *Sandbox) Destroy() {
	if s.hollow {
		s.endHollow()
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), destroyTimeout)
	defer cancel()
	err := s.machines.Destroy(ctx, s.names.Domain())
	if err == nil {
		return
	}
	if killErr := s.vm.kill(); killErr != nil {
		err = errors.Join(err, killErr)
	}
	s.log().WithError(err).Error("machine could not be destroyed through libvirt; its process was killed")
}

// Leave is called by a member that has ended. With the owner the machine ends, so
// it is the last to leave: Leave returns when the machine is gone. A member may
// leave twice.
func (s *Sandbox) Leave(id string) {
	s.mu.Lock()
	if _, there := s.members[id]; there {
		s.members[id] = false
	}
	owner := id == s.owner
	s.mu.Unlock()
	if owner {
		s.shutdown()
	}
}

// errCrashed says why a guest is not asked.
var errCrashed = errors.New("it did not report the container's exit")

// Save ends the machine of an owner that has ended, so that nothing of what was
// written is lost: with ask, after the guest has said that its disks are complete.
func (s *Sandbox) Save(ask bool) {
	err := errCrashed
	if ask {
		err = s.askEnd(quiesceTimeout)
	}
	if err != nil {
		s.log().WithError(err).Warn("the guest did not say that its disk is complete: what it wrote last may be missing")
	}
	s.Destroy()
}

// askEnd tells the guest, once, that it may power off.
func (s *Sandbox) askEnd(patience time.Duration) error {
	s.mu.Lock()
	session := s.session
	first := !s.asked
	s.asked = true
	s.mu.Unlock()
	if session == nil || !first {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return session.Shutdown(ctx)
}

// shutDown ends the machine, asking the guest first, and lets go of it.
func (s *Sandbox) shutDown() {
	_ = s.askEnd(shutdownTimeout) // a guest that is gone cannot be told, and need not be
	if session := s.Session(); session != nil {
		_ = session.Close()
	}
	if s.machines != nil {
		s.Destroy()
	}
	if s.State() != Defined { // else nobody watches it
		s.endWithin(lastWords)
	}
	s.stopWatching()
	if s.standIn != nil {
		s.standIn.End()
	}
	s.watchers.Wait()
	s.noteEnd(unikernel.End{Reason: unikernel.EndUnknown, At: time.Now(), Detail: "nothing tells of its end"})
	s.mu.Lock()
	con := s.console
	s.mu.Unlock()
	if con != nil {
		con.Close()
	}
	s.vm.close()
	s.closeHelpers()
	if tree := s.hardware.Share; tree != nil {
		_ = tree.Close() // nobody else uses it; sources can be unmounted
	}
}

// Release is called by a member that has been deleted. With the owner the sandbox
// is: everything it has on the host is freed. What fails can be tried again.
func (s *Sandbox) Release(ctx context.Context, id string) error {
	s.Leave(id)
	s.releasing.Lock()
	defer s.releasing.Unlock()
	s.mu.Lock()
	owner, state := id == s.owner, s.state
	if !owner {
		delete(s.members, id)
	}
	s.mu.Unlock()
	if !owner || state == Released {
		return nil
	}
	if err := Cleanup(ctx, s.names, s.netns, s.networks); err != nil {
		return err
	}
	return s.step(opRelease)
}

// The kernel lets go of ended processes a little later.
const cgroupRetry, cgroupTries = 20 * time.Millisecond, 50

// Cleanup frees whatever there is of a sandbox on the host, known by its names
// alone; nothing need be there. An empty netns is one of its own, or the one that it
// recorded. All of it is tried, whatever fails. The machine has been destroyed before; should its
// processes have survived that, they are killed in the sandbox's cgroup.
func Cleanup(ctx context.Context, names Names, netns string, networks Networks) error {
	if joined, err := os.ReadFile(names.joined()); netns == "" && err == nil {
		netns = string(joined)
	}
	if netns == "" {
		netns = names.netns()
	}
	errs := []error{networks.Remove(names.Key, netns), networks.Drop(names.netns())}
	cgroupErr := removeCgroup(ctx, names.cgroupRecord())
	errs = append(errs, share.Unmount(names.Share()), cgroupErr)
	err := errors.Join(errs...)
	if err == nil { // else it says that something is left, and has the cgroup's record
		err = RemoveTree(names.State)
	}
	if err != nil {
		return fmt.Errorf("clean up sandbox %s: %w", names.ID, err)
	}
	return nil
}

// RemoveTree removes a directory, unless something is mounted in it: that
// would be other people's files.
func RemoveTree(dir string) error {
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(dir))
	if err != nil {
		return err
	}
	if len(mounts) > 0 {
		return fmt.Errorf("%s is still mounted: %s is not removed", mounts[0].Mountpoint, dir)
	}
	return os.RemoveAll(dir)
}

func removeCgroup(ctx context.Context, record string) error {
	for try := 1; ; try++ {
		err := cgroup.Remove(record)
		if err == nil || try == cgroupTries {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(cgroupRetry):
		}
	}
}
