#include "textflag.h"

// Numbers of Linux on x86-64: asm/unistd_64.h, asm-generic/siginfo.h, asm-generic/mman-common.h.
#define SYS_mmap 9
#define SYS_rt_sigaction 13
#define SIGBUS 7
#define BUS_ADRERR 2
#define PAGE 4096
#define PROT_READ_WRITE 3
#define MAP_PRIVATE_FIXED_ANONYMOUS 0x32

// struct sigaction of the kernel: handler, flags, restorer, mask.
DATA old<>+0(SB)/8, $0
GLOBL old<>(SB), NOPTR, $32
GLOBL new<>(SB), NOPTR, $32

// func setHandler() (errno int64)
// Takes Go's own entry as it is, its stack, mask and restorer, and changes the handler alone.
TEXT ·setHandler(SB), NOSPLIT, $0-8
	MOVL	$SYS_rt_sigaction, AX
	MOVL	$SIGBUS, DI
	XORL	SI, SI
	LEAQ	old<>(SB), DX
	MOVL	$8, R10
	SYSCALL
	TESTQ	AX, AX
	JNE	done
	LEAQ	old<>(SB), SI
	LEAQ	new<>(SB), DI
	MOVQ	8(SI), AX
	MOVQ	AX, 8(DI)
	MOVQ	16(SI), AX
	MOVQ	AX, 16(DI)
	MOVQ	24(SI), AX
	MOVQ	AX, 24(DI)
	LEAQ	handler<>(SB), AX
	MOVQ	AX, 0(DI)
	MOVQ	DI, SI
	MOVL	$SYS_rt_sigaction, AX
	MOVL	$SIGBUS, DI
	XORL	DX, DX
	MOVL	$8, R10
	SYSCALL
done:
	NEGQ	AX
	MOVQ	AX, errno+0(FP)
	RET

// The handler: signal in DI, *siginfo in SI, *ucontext in DX, as C has it. It runs on Go's signal stack with all signals
// blocked, calls the kernel and nothing else, and may use any register: the kernel puts them all back.
TEXT handler<>(SB), NOSPLIT|NOFRAME|TOPFRAME, $0
	CMPL	8(SI), $BUS_ADRERR
	JNE	next
	MOVQ	16(SI), AX
	CMPQ	AX, ·exempt+0(SB)
	JCS	image
	CMPQ	AX, ·exempt+8(SB)
	JCS	next
image:
	CMPQ	AX, ·exempt+16(SB)
	JCS	replace
	CMPQ	AX, ·exempt+24(SB)
	JCS	next
replace:
	MOVQ	DI, R12
	MOVQ	SI, R13
	MOVQ	DX, R14
	MOVQ	AX, DI
	ANDQ	$~(PAGE-1), DI
	MOVL	$PAGE, SI
	MOVL	$PROT_READ_WRITE, DX
	MOVL	$MAP_PRIVATE_FIXED_ANONYMOUS, R10
	MOVQ	$-1, R8
	XORL	R9, R9
	MOVL	$SYS_mmap, AX
	SYSCALL
	CMPQ	AX, $-4095
	JCC	failed
	LOCK
	INCQ	·absorbed(SB)
	RET
failed:
	MOVQ	R12, DI
	MOVQ	R13, SI
	MOVQ	R14, DX
next:
	MOVQ	old<>+0(SB), AX
	JMP	AX
