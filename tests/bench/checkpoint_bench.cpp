// checkpoint_bench DIRECTORY [MIB=1536] [ROUNDS=5]: writing and reading a rank's shard against
// plain O_DIRECT pwrite and pread of as many bytes in the same directory, taken in turns in one
// run; processor time of both, and the share of the checksums in it.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <thread>

#include "io/base/clock.h"
#include "io/base/crc32c.h"
#include "io/base/file.h"
#include "io/base/memory.h"
#include "io/checkpoint/reader.h"
#include "io/checkpoint/shard.h"

namespace elaswave::checkpoint {
namespace {

constexpr std::int64_t kCallBytes = std::int64_t{64} << 20;
constexpr double kGiga = 1e9;

struct Cost {
  double seconds = 0, cpu_seconds = 0;
};

double cpu_seconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_usec) * 1e-6;
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

Cost measure(const std::function<void()>& work) {
  const RealClock clock;
  const double cpu = cpu_seconds();
  const Nanoseconds begin = clock.now();
  work();
  return {static_cast<double>(clock.now() - begin) / static_cast<double>(kSecond),
          cpu_seconds() - cpu};
}

void plain_write(const std::string& path, std::byte* bytes, std::int64_t size) {
  const Descriptor file(::open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_DIRECT, 0666));
  EW_CHECK(file, "cannot open {} for direct writing", path);
  EW_CHECK(::posix_fallocate(file.get(), 0, size) == 0, "no space");
  for (std::int64_t at = 0; at < size; at += kCallBytes) {
    const std::int64_t length = std::min(kCallBytes, size - at);
    EW_CHECK(::pwrite(file.get(), bytes + at, static_cast<std::size_t>(length), at) == length,
             "write at {}", at);
  }
  EW_CHECK(::fsync(file.get()) == 0, "fsync");
}

/// The three kinds of a shard, each to where it belongs.
void plain_read(const std::string& path, const FileEntry& entry, std::span<const Memory> memory) {
  const Descriptor file(::open(path.c_str(), O_RDONLY | O_DIRECT));
  EW_CHECK(file, "cannot open {} for direct reading", path);
  for (const Piece& piece : entry.pieces) {
    std::byte* const bytes = memory[static_cast<std::size_t>(piece.kind)].get();
    const std::int64_t size = piece.elems() * 4;
    for (std::int64_t at = 0; at < size; at += kCallBytes) {
      const std::int64_t length = std::min(kCallBytes, size - at);
      EW_CHECK(::pread(file.get(), bytes + at, static_cast<std::size_t>(length),
                       piece.offset_bytes + at) == length,
               "read at {}", at);
    }
  }
}

/// Tensors as of a GPT: blocks of 16384 elements, three kinds.
struct State {
  explicit State(std::int64_t bytes) {
    const std::int64_t blocks = std::max<std::int64_t>(bytes / (12 * kUnitElems), 1);
    for (std::size_t kind = 0; kind < values.size(); ++kind) {
      memory[kind] = allocate(blocks * kUnitElems * 4, kDirectAlignment);
      values[kind] = {reinterpret_cast<float*>(memory[kind].get()),
                      static_cast<std::size_t>(blocks * kUnitElems)};
    }
    manifest.tensors = {{"weight", {blocks, kUnitElems}}};
    for (std::int64_t block = 0; block < blocks; ++block) {
      ranges.push_back({0, {{.begin = block * kUnitElems, .elems = kUnitElems}}});
      const auto part = [&](std::size_t kind) -> std::span<const float> {
        return values[kind].subspan(static_cast<std::size_t>(block * kUnitElems), kUnitElems);
      };
      sources.push_back({part(0), part(1), part(2)});
    }
  }
  std::vector<Want> wants() {
    std::vector<Want> all;
    for (std::size_t kind = 0; kind < values.size(); ++kind)
      for (const StateRange& range : ranges)
        all.push_back(
            {0, static_cast<Kind>(kind), range.runs[0].begin,
             values[kind].subspan(static_cast<std::size_t>(range.runs[0].begin), kUnitElems)});
    return all;
  }

  std::array<Memory, 3> memory;
  std::array<std::span<float>, 3> values;
  Manifest manifest;
  std::vector<StateRange> ranges;
  std::vector<StateSource> sources;
};

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

void report(const char* what, const std::vector<Cost>& ours, const std::vector<Cost>& plain,
            double gigabytes) {
  std::vector<double> ratios, speeds, plain_speeds, cpu, plain_cpu;
  for (std::size_t i = 0; i < ours.size(); ++i) {
    ratios.push_back(plain[i].seconds / ours[i].seconds);
    speeds.push_back(gigabytes / ours[i].seconds);
    plain_speeds.push_back(gigabytes / plain[i].seconds);
    cpu.push_back(ours[i].cpu_seconds / gigabytes);
    plain_cpu.push_back(plain[i].cpu_seconds / gigabytes);
  }
  const auto [low, high] = std::minmax_element(ratios.begin(), ratios.end());
  fmt::print(
      "{}: {:.2f} GB/s, plain {:.2f} GB/s, ratio {:.3f} ({:.3f} to {:.3f}); CPU {:.3f} s/GB, "
      "plain {:.3f}\n",
      what, median(speeds), median(plain_speeds), median(ratios), *low, *high, median(cpu),
      median(plain_cpu));
}

int run(const std::string& directory, std::int64_t mib, int rounds) {
  State state(mib << 20);
  const auto files = make_file_system();
  auto made = ShardFile::create(state.ranges);
  EW_CHECK(made, "{}", made.error().text());
  ShardFile& shard = **made;
  const std::int64_t bytes = round_up(shard.size_bytes(), 4096);
  const double gigabytes = static_cast<double>(bytes) / kGiga;
  const Memory plain = allocate(bytes, kDirectAlignment);
  const std::string plain_path = directory + "/plain.bin";
  const std::string shard_path = directory + "/shard.h5";
  std::vector<Cost> writes, plain_writes, reads, plain_reads;
  std::vector<double> captures, checksums;
  for (int round = 0; round < rounds; ++round) {
    ::unlink(plain_path.c_str());
    plain_writes.push_back(measure([&] { plain_write(plain_path, plain.get(), bytes); }));
    ::unlink(shard_path.c_str());
    FileEntry entry;
    writes.push_back(measure([&] {
      shard.rewind();
      std::thread copier(
          [&] { captures.push_back(measure([&] { shard.capture(state.sources); }).seconds); });
      auto written = shard.write(*files, directory, "shard.h5");
      copier.join();
      EW_CHECK(written, "{}", written.error().text());
      entry = *std::move(written);
    }));
    // The same file into the same memory: where bytes lie makes more of a difference than who reads
    // them.
    plain_reads.push_back(measure([&] { plain_read(shard_path, entry, state.memory); }));
    state.manifest.files = {entry};
    reads.push_back(measure([&] {
      const auto read = read_wants(*files, directory, state.manifest, state.wants());
      EW_CHECK(read, "{}", read.error().text());
    }));
    checksums.push_back(measure([&] {
                          const auto crc = crc32c({plain.get(), static_cast<std::size_t>(bytes)});
                          EW_CHECK(crc != 1, "as unlikely as it gets");
                        }).cpu_seconds /
                        gigabytes);
  }
  ::unlink(plain_path.c_str());
  ::unlink(shard_path.c_str());
  fmt::print("{:.2f} GB, {} rounds, medians\n", gigabytes, rounds);
  report("write", writes, plain_writes, gigabytes);
  report("read", reads, plain_reads, gigabytes);
  std::vector<double> share;
  for (std::size_t i = 0; i < writes.size(); ++i)
    share.push_back(100 * checksums[i] * gigabytes / writes[i].cpu_seconds);
  fmt::print("checksums: {:.3f} CPU s/GB, {:.0f} % of the processor time of a write\n",
             median(checksums), median(share));
  fmt::print("the state is copied after {:.0f} ms: a step that computes longer waits for nothing\n",
             1e3 * median(captures));
  return 0;
}

}  // namespace
}  // namespace elaswave::checkpoint

int main(int argc, char** argv) {
  if (argc < 2) {
    fmt::print(stderr, "usage: checkpoint_bench DIRECTORY [MIB=1536] [ROUNDS=5]\n");
    return 2;
  }
  return elaswave::checkpoint::run(argv[1], argc > 2 ? std::atoll(argv[2]) : 1536,
                                   argc > 3 ? std::atoi(argv[3]) : 5);
}
