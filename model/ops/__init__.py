"""What forward and backward passes compute with: GPU kernels, CPU counterparts, CUDA graphs, dropout."""
