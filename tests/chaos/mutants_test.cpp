// Every mutant must be caught by the campaign at the size it has in CI. Each is tried in a process
// of its own: some end it. What catches it is printed with its seed.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <functional>
#include <string>

#include "io/base/mutant.h"
#include "tests/chaos/draw.h"
#include "tests/chaos/stored_cases.h"
#include "tests/support/agent_network.h"

namespace elaswave::test {
namespace {

/// What the process of a mutant leaves behind, also when it dies.
class Note {
 public:
  Note()
      : text_(static_cast<char*>(
            mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0))) {}
  Note(const Note&) = delete;
  Note& operator=(const Note&) = delete;
  ~Note() { munmap(text_, kBytes); }
  void write(const std::string& text) {
    const std::size_t length = std::min(text.size(), kBytes - 1);
    std::memcpy(text_, text.data(), length);
    text_[length] = 0;
  }
  std::string text() const { return text_; }

 private:
  static constexpr std::size_t kBytes = 1 << 14;
  char* text_;
};

constexpr std::uint64_t kRandomCases = 2'500;

/// The campaign until something is wrong: true, and the note says what.
bool campaign_catches(Mutant mutant, Note& note) {
  Bench bench;
  bench.truth = [mutant](bool on) { activate(on ? Mutant::none : mutant); };
  activate(mutant);
  bool caught = false;
  const auto passes = [&](const Case& what) {
    const std::string about = fmt::format("seed {}: {}", what.seed, text(what));
    note.write(about + ": the process dies");
    const std::string wrong = bench.try_case(what);
    caught = !wrong.empty();
    if (caught) note.write(wrong + " (" + about + ")");
    return !caught;
  };
  for (const Case& stored : stored_cases())
    if (!passes(stored)) return true;
  for (std::uint64_t seed = 1; seed <= kRandomCases; ++seed) {
    if (!passes(random_schedule(bench, seed))) return true;
    if (!passes(second_failure(bench, seed))) return true;
  }
  first_failures(bench, false, passes);
  return caught;
}

/// The agents' own world, where links fail too. As agent_random_test.cpp has it, kept short: kills
/// at a message and cuts right through, in small worlds.
bool agents_catch(Mutant mutant, Note& note) {
  using member::AgentNetwork;
  using member::kMs;
  activate(mutant);
  for (std::uint64_t seed = 1; seed <= 30'000; ++seed) {
    member::Dice dice(seed);
    const auto ranks = static_cast<std::int32_t>(2 + dice.below(6));
    AgentNetwork net({.world_size = ranks,
                      .seed = seed,
                      .claims = dice.one_in(2),
                      .dial_timeout = 200 * kMs,
                      .silence = 600 * kMs,
                      .patience = 3000 * kMs});
    const std::string about = fmt::format("agents, seed {}, {} ranks", seed, ranks);
    note.write(about + ": the process dies");
    net.run_for(20 * kMs);
    const auto cut_in_two = [&] {
      const auto side = dice.below(std::int64_t{1} << ranks);
      for (std::int32_t a = 0; a < ranks; ++a)
        for (std::int32_t b = a + 1; b < ranks; ++b)
          if ((side >> a & 1) != (side >> b & 1)) net.cut(a, b);
    };
    // What is under way when a view is decided.
    using enum member::Kind;
    constexpr member::Kind kinds[] = {prepare, accept, accept, echo, decide, decide};
    const std::int64_t faults = 1 + dice.below(4);
    for (std::int64_t i = 0; i < faults; ++i) {
      const auto rank = static_cast<std::int32_t>(dice.below(ranks));
      if (dice.one_in(3))
        cut_in_two();
      else if (dice.one_in(2))
        net.arm({kinds[dice.below(6)], static_cast<std::int32_t>(1 + dice.below(10)),
                 dice.one_in(2), dice.one_in(2)});
      else
        net.kill(rank);
      net.run_for(dice.below(1500 * kMs));
    }
    net.run_for(3000 * kMs);
    if (net.fault().empty()) continue;
    note.write(fmt::format("{} ({})", net.fault(), about));
    return true;
  }
  return false;
}

bool is_agents(Mutant mutant) {
  return mutant == Mutant::accepted_value_ignored || mutant == Mutant::view_without_quorum ||
         mutant == Mutant::tie_won_twice;
}

/// In a process of its own. True when caught.
bool caught(Mutant mutant, std::string& by) {
  Note note;
  std::fflush(nullptr);
  const pid_t child = fork();
  if (child == 0) {
    const bool wrong =
        is_agents(mutant) ? agents_catch(mutant, note) : campaign_catches(mutant, note);
    std::fflush(nullptr);
    _exit(wrong ? 1 : 0);
  }
  int status = 0;
  if (child < 0 || waitpid(child, &status, 0) != child) return false;
  by = note.text();
  return !WIFEXITED(status) || WEXITSTATUS(status) != 0;
}

class MutantTest : public testing::TestWithParam<Mutant> {};

TEST_P(MutantTest, IsCaught) {
  std::string by;
  ASSERT_TRUE(caught(GetParam(), by)) << name(GetParam()) << " lives";
  fmt::print("campaign: mutant {} is caught: {}\n", name(GetParam()), by);
}

std::vector<Mutant> all_mutants() {
  std::vector<Mutant> all;
  for (int i = 1; i < static_cast<int>(Mutant::count); ++i) all.push_back(static_cast<Mutant>(i));
  return all;
}

INSTANTIATE_TEST_SUITE_P(Every, MutantTest, testing::ValuesIn(all_mutants()),
                         [](const auto& mutant) { return std::string(name(mutant.param)); });

/// Without a mutant the agents' campaign finds nothing: what catches one is not always there.
TEST(MutantTestItself, NothingIsCaughtWithoutAMutant) {
  Note note;
  EXPECT_FALSE(agents_catch(Mutant::none, note)) << note.text();
}

}  // namespace
}  // namespace elaswave::test
