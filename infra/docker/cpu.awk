# Leaves torch and its CUDA libraries out of the lock where an index of CPU wheels was named.
/^[a-z]/ { kept = cpu == "" || !/^(torch|torchvision|triton|nvidia-[a-z0-9-]+|cuda-[a-z]+)==/ }
kept
