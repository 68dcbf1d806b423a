"""What forward and backward passes compute with: GPU kernels, CPU counterparts, gradient sums, CUDA graphs, dropout."""
