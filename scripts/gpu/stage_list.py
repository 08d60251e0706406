"""The stages of stages.py, as data, in the order in which a day with a GPU should go: what is right first, then how fast."""

SIZED = ("--device", "{device}", "--size", "{size}", "--results", "{results}")
# The CUDA backend takes every body: a test that was skipped found no GPU, or no library.
GTEST = {"keep": r"^\[  (PASSED|SKIPPED|FAILED) +\] \d+ test|tests? from .* ran", "skipped": r"^\[  SKIPPED \] \d+ test"}
# Bodies with an example of every kind of kernel that are quick enough under a tool that slows a hundred times.
SANITIZED = "--gtest_filter=*matches_reference*:*Update*"
# In a bundle programs are started by a script.
SANITIZER = ("@compute-sanitizer", "--error-exitcode", "1", "--target-processes", "all")


def script(name, *arguments):
    return ("{python}", "{here}/" + name, *arguments)


def stages(stage):
    return [
        stage("host", "GPU, driver, libraries, programs; cuDNN's description of the GPU", limit_s=120, about_s=20,
              command=script("host.py", "--device", "{device}", "--properties", "{results}/device_properties.json")),
        stage("tests", "all kernels against double precision, attention by the plain ones", limit_s=400, about_s=60,
              command=("@kernels_cuda_test",), **GTEST),
        stage("bits", "masks, embedding sums, updates, means, norms, digests: the CPU's bits", limit_s=300, about_s=30,
              command=("@bits_cuda_test",), **GTEST),
        stage("sums", "sums and copies of exchanges: the host's bits", limit_s=200, about_s=20,
              command=("@arithmetic_cuda_test", "--gtest_filter=-*AreBugs*"), keep=GTEST["keep"], skipped="Bad expected access"),
        stage("tests-cudnn", "attention by cuDNN, the same bodies", limit_s=300, about_s=40,
              command=("@kernels_cudnn_test", "--gtest_filter=*Attention*"), **GTEST),
        stage("attention", "cuDNN against the plain kernels at the presets' shapes: error, bits, time", limit_s=300, about_s=60,
              command=("@attention_check", "20"), keep="^(right|WRONG)"),
        stage("match-odd", "an odd-sized model: GPU, CPU and PyTorch against PyTorch in f64", limit_s=300, about_s=90,
              command=script("match.py", "--model", "odd", *SIZED)),
        stage("match-124m", "three steps of 124M, the same", limit_s=470, about_s=200,
              command=script("match.py", "--model", "gpt2-124m", *SIZED)),
        stage("repeat", "1,000 repeats of a step of 124M on three starts; atomics are caught", limit_s=475, about_s=300,
              command=script("repeat.py", *SIZED)),
        stage("ranks", "two and four ranks on one GPU, one killed: the digest of one rank", limit_s=470, about_s=200,
              command=script("ranks.py", *SIZED)),
        stage("speed-124m", "tokens/s of elaswave, 124M, bf16", limit_s=300, about_s=60,
              command=script("speed.py", "--model", "gpt2-124m", *SIZED)),
        stage("speed-1.5b", "tokens/s of elaswave, 1.5B, bf16", limit_s=470, about_s=150,
              command=script("speed.py", "--model", "gpt2-1.5b", *SIZED)),
        stage("pytorch-124m", "tokens/s of PyTorch, its best settings, 124M", limit_s=475, about_s=300,
              command=script("pytorch_speed.py", "--model", "gpt2-124m", *SIZED)),
        stage("pytorch-1.5b", "tokens/s of PyTorch, the settings that were best, 1.5B", limit_s=475, about_s=350,
              command=script("pytorch_speed.py", "--model", "gpt2-1.5b", *SIZED)),
        stage("ratio", "elaswave over PyTorch", limit_s=30, about_s=1, command=script("ratio.py", "{results}"),
              needs=("speed-124m", "pytorch-124m")),
        stage("kernels", "each kernel's share of what a copy reaches", limit_s=400, about_s=60, command=("@cuda_kernel_bench",),
              keep=r"\S"),
        stage("exact", "what exact sums cost, 124M", limit_s=400, about_s=90,
              command=script("speed.py", "--model", "gpt2-124m", "--compare", "exact", *SIZED)),
        stage("redundancy", "what copies and agents cost: two ranks on one GPU", limit_s=470, about_s=120,
              command=script("speed.py", "--model", "gpt2-124m", "--compare", "redundancy", *SIZED)),
        stage("profile", "where the time of a step of 124M goes, by nsys", limit_s=300, about_s=90,
              command=("@nsys", "profile", "--force-overwrite=true", "--output", "{results}/step", "--stats=true",
                       "--trace=cuda,nvtx", *script("speed.py", "--model", "gpt2-124m", *SIZED))),
        stage("memcheck", "kernels under compute-sanitizer: addresses", limit_s=475, about_s=300,
              command=(*SANITIZER, "--tool", "memcheck", "@kernels_cuda_test", SANITIZED), keep=r"ERROR SUMMARY",
              skipped=GTEST["skipped"]),
        stage("racecheck", "kernels under compute-sanitizer: shared memory", limit_s=475, about_s=300,
              command=(*SANITIZER, "--tool", "racecheck", "@kernels_cuda_test", SANITIZED), keep=r"RACECHECK SUMMARY",
              skipped=GTEST["skipped"]),
    ]
