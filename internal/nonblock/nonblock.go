// Package nonblock makes system calls that don't block, on sockets as Go has them. A call
// by package syscall is announced to the scheduler, in case it should block: a core that
// stays in one for 20 µs, as the sending on loopback or a busy line may, is given to
// another thread, and threads that wait for cores cost more than the call did.
//
// What a call copies bounds how long it may keep the scheduler waiting, so callers pass
// some hundred kilobytes at most.
package nonblock
