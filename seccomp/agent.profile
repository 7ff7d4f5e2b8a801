# What an agent CLI and the developer tools that it starts (git, compilers, make, python, node) may ask of the kernel.
# More profiles may be put beside this one, as NAME.profile, and named in an agent's manifest.
#
# One rule a line:
#   default errno ENOSYS          what every call that is not named answers; the first rule
#   allow CALL…                   these calls pass
#   deny ERRNO CALL…              these answer this errno
#   deny ERRNO CALL if argN == VALUE             also != < <= > >=; N from 0 to 5
#   deny ERRNO CALL if argN & MASK == VALUE
# A deny with a condition wins over an allow of the same call. Values are numbers, 0x…, or names such as AF_UNIX,
# CLONE_NEWUSER, TIOCSTI. A call's name that this machine does not know is skipped.
#
# A call that is not named answers ENOSYS, as on a kernel that is too old for it, so programs fall back. What is
# forbidden on purpose answers EPERM. io_uring is refused because a ring's operations are not seen by seccomp.

default errno ENOSYS

# Files and folders
allow open openat openat2 creat close close_range read write pread64 pwrite64 readv writev preadv pwritev preadv2 pwritev2
allow lseek _llseek stat fstat lstat stat64 fstat64 lstat64 newfstatat fstatat64 statx access faccessat faccessat2
allow getdents getdents64 getcwd chdir fchdir mkdir mkdirat rmdir unlink unlinkat rename renameat renameat2
allow link linkat symlink symlinkat readlink readlinkat chmod fchmod fchmodat fchmodat2 chown fchown lchown fchownat
allow truncate ftruncate truncate64 ftruncate64 fallocate fsync fdatasync sync_file_range syncfs sync
allow utime utimes futimesat utimensat umask flock fcntl fcntl64 dup dup2 dup3 pipe pipe2 ioctl
allow sendfile sendfile64 splice tee vmsplice copy_file_range readahead fadvise64 fadvise64_64
allow statfs fstatfs statfs64 fstatfs64 mknod mknodat
allow getxattr lgetxattr fgetxattr listxattr llistxattr flistxattr setxattr lsetxattr fsetxattr removexattr lremovexattr fremovexattr
allow inotify_init inotify_init1 inotify_add_watch inotify_rm_watch memfd_create cachestat

# Memory
allow brk mmap mmap2 munmap mremap mprotect madvise msync mincore mlock mlock2 munlock mlockall munlockall
allow pkey_alloc pkey_free pkey_mprotect membarrier get_mempolicy set_mempolicy mbind
allow shmget shmat shmctl shmdt semget semop semctl semtimedop msgget msgsnd msgrcv msgctl
allow mq_open mq_unlink mq_timedsend mq_timedreceive mq_notify mq_getsetattr

# Processes and threads; clone3's flags lie in memory where a filter can't read them, so it is declined and libraries
# take clone instead, whose flags can be judged
allow clone fork vfork execve execveat exit exit_group wait4 waitid waitpid kill tkill tgkill rt_sigqueueinfo rt_tgsigqueueinfo
deny ENOSYS clone3
deny EPERM clone if arg0 & CLONE_NEWNS == CLONE_NEWNS
deny EPERM clone if arg0 & CLONE_NEWUSER == CLONE_NEWUSER
deny EPERM clone if arg0 & CLONE_NEWPID == CLONE_NEWPID
deny EPERM clone if arg0 & CLONE_NEWNET == CLONE_NEWNET
deny EPERM clone if arg0 & CLONE_NEWIPC == CLONE_NEWIPC
deny EPERM clone if arg0 & CLONE_NEWUTS == CLONE_NEWUTS
deny EPERM clone if arg0 & CLONE_NEWCGROUP == CLONE_NEWCGROUP
allow getpid getppid gettid getpgid getpgrp setpgid getsid setsid getuid geteuid getgid getegid getresuid getresgid getgroups
allow getuid32 geteuid32 getgid32 getegid32 getresuid32 getresgid32 getgroups32
allow setuid setgid setreuid setregid setresuid setresgid setfsuid setfsgid setgroups capget capset
allow getpriority setpriority nice ioprio_get ioprio_set sched_yield sched_getaffinity sched_setaffinity sched_getparam sched_setparam
allow sched_getscheduler sched_setscheduler sched_getattr sched_setattr sched_get_priority_max sched_get_priority_min sched_rr_get_interval
allow getrlimit setrlimit prlimit64 getrusage times prctl arch_prctl set_tid_address set_robust_list get_robust_list rseq
allow set_thread_area get_thread_area getcpu uname sysinfo personality pidfd_open pidfd_send_signal
allow futex futex_waitv futex_wake futex_wait futex_requeue landlock_create_ruleset landlock_add_rule landlock_restrict_self seccomp
allow riscv_flush_icache riscv_hwprobe

# Signals, time, waiting
allow rt_sigaction rt_sigprocmask rt_sigreturn sigreturn rt_sigpending rt_sigsuspend rt_sigtimedwait sigaltstack signalfd signalfd4 pause
allow nanosleep clock_nanosleep clock_gettime clock_getres gettimeofday time alarm getitimer setitimer restart_syscall
allow timer_create timer_settime timer_gettime timer_getoverrun timer_delete timerfd_create timerfd_settime timerfd_gettime
allow select pselect6 poll ppoll epoll_create epoll_create1 epoll_ctl epoll_wait epoll_pwait epoll_pwait2 eventfd eventfd2
allow getrandom

# Sockets: Unix, internet, and netlink for getifaddrs(3) and name lookups
allow socket socketpair bind listen accept accept4 connect shutdown getsockname getpeername getsockopt setsockopt
allow send sendto sendmsg sendmmsg recv recvfrom recvmsg recvmmsg
deny EAFNOSUPPORT socket if arg0 > AF_NETLINK
deny EAFNOSUPPORT socket if arg0 == 0
deny EAFNOSUPPORT socket if arg0 == 3
deny EAFNOSUPPORT socket if arg0 == 4
deny EAFNOSUPPORT socket if arg0 == 5
deny EAFNOSUPPORT socket if arg0 == 6
deny EAFNOSUPPORT socket if arg0 == 7
deny EAFNOSUPPORT socket if arg0 == 8
deny EAFNOSUPPORT socket if arg0 == 9
deny EAFNOSUPPORT socket if arg0 == 11
deny EAFNOSUPPORT socket if arg0 == 12
deny EAFNOSUPPORT socket if arg0 == 13
deny EAFNOSUPPORT socket if arg0 == 14
deny EAFNOSUPPORT socket if arg0 == 15

# Typing into a terminal that is not one's own; the kernel looks at the low 32 bits of the request only
deny EPERM ioctl if arg1 & 0xffffffff == TIOCSTI
deny EPERM ioctl if arg1 & 0xffffffff == TIOCLINUX

# Forbidden on purpose
deny EPERM io_uring_setup io_uring_enter io_uring_register io_setup io_destroy io_submit io_cancel io_getevents io_pgetevents
deny EPERM ptrace process_vm_readv process_vm_writev process_madvise process_mrelease kcmp pidfd_getfd
deny EPERM bpf perf_event_open userfaultfd keyctl add_key request_key lookup_dcookie
deny EPERM mount umount umount2 pivot_root chroot mount_setattr move_mount open_tree fsopen fsconfig fsmount fspick
deny EPERM unshare setns open_by_handle_at name_to_handle_at fanotify_init fanotify_mark quotactl quotactl_fd
deny EPERM kexec_load kexec_file_load init_module finit_module delete_module create_module
deny EPERM reboot swapon swapoff syslog acct vhangup settimeofday clock_settime clock_settime64 clock_adjtime adjtimex stime
deny EPERM sethostname setdomainname iopl ioperm modify_ldt nfsservctl uselib vm86 vm86old migrate_pages move_pages
deny EPERM memfd_secret set_mempolicy_home_node
