package blockdev

import "context"

// maxCPUs is more than any kernel has (CONFIG_NR_CPUS): the driver wants room for all.
const maxCPUs = 8192

// Affinity returns, for each queue of a device, the CPUs whose requests go to it. A device that was
// never started has none.
func Affinity(ctx context.Context, id int) ([][]int, error) {
	c, err := openControl()
	if err != nil {
		return nil, err
	}
	defer c.close()
	info, err := c.devInfo(ctx, id)
	if err != nil {
		return nil, err
	}
	queues := make([][]int, info.nr_hw_queues)
	for q := range queues {
		mask, err := c.affinity(ctx, id, q)
		if err != nil {
			return nil, err
		}
		queues[q] = cpusOf(mask)
	}
	return queues, nil
}

// cpusOf lists the CPUs of a mask, whose words are the kernel's unsigned longs: little endian on all
// machines that varve runs on.
func cpusOf(mask []byte) (cpus []int) {
	for i := range 8 * len(mask) {
		if mask[i/8]&(1<<(i%8)) != 0 {
			cpus = append(cpus, i)
		}
	}
	return cpus
}
