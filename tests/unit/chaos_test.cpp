// elastic/chaos: what is understood, what is refused and how, and when a fault happens.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <set>

#include "elastic/chaos/injector.h"

namespace elaswave::chaos {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

Faults faults_of(Kind kind, const std::string& text) {
  auto list = parse_faults(kind, {text});
  EXPECT_TRUE(list) << list.error().text();
  return {.list = list ? *list : std::vector<Fault>{}, .random = {}};
}

/// What would have happened to a rank, instead of it happening.
struct Recorder {
  std::vector<std::string> done;
  Effects effects() {
    return {.kill = [this] { done.emplace_back("kill"); },
            .stop = [this] { done.emplace_back("stop"); },
            .exit = [this](int code) { done.push_back(fmt::format("exit {}", code)); },
            .hang = [this] { done.emplace_back("hang"); },
            .say = {}};
  }
};

/// The probes of one step, as the step loop passes them.
void pass(const ProbeHook& hook, Point last = Point::after_gather) {
  for (int i = 0; i <= static_cast<int>(last); ++i) hook(static_cast<Point>(i));
}

TEST(ChaosText, ReadsEveryKind) {
  const Fault kill = faults_of(Kind::kill, "rank=3, step=5").list.at(0);
  EXPECT_THAT(kill.who.ranks, ElementsAre(3));
  EXPECT_EQ(kill.step, Step{5});
  EXPECT_EQ(kill.point, Point::step_begin);
  EXPECT_EQ(kill.at, 1);

  const auto two = parse_faults(
      Kind::stop,
      {"ranks=4+1+4,step=2,point=recover_gate,at=3;domain=n1,step=any", "rank=any,seed=9,step=1"});
  ASSERT_TRUE(two) << two.error().text();
  ASSERT_EQ(two->size(), 3u);
  EXPECT_THAT(two->at(0).who.ranks, ElementsAre(1, 4));
  EXPECT_EQ(two->at(0).point, Point::recover_gate);
  EXPECT_EQ(two->at(0).at, 3);
  EXPECT_EQ(two->at(1).who.domain, "n1");
  EXPECT_FALSE(two->at(1).step);
  EXPECT_EQ(two->at(2).who.seed, 9u);

  EXPECT_EQ(faults_of(Kind::exit, "rank=0,step=1,code=10").list.at(0).code, 10);
  const Fault slow = faults_of(Kind::slow, "rank=0,step=1,factor=2.5,until=4").list.at(0);
  EXPECT_EQ(slow.factor, 2.5);
  EXPECT_EQ(slow.until, Step{4});
  EXPECT_THAT(faults_of(Kind::cut, "a=0+1,b=2,step=1").list.at(0).far, ElementsAre(2));
  EXPECT_EQ(faults_of(Kind::corrupt, "what=copy,rank=1,step=2").list.at(0).target, Target::copy);

  const auto random = parse_random("seed=4,rate=0.25,kinds=stop+exit");
  ASSERT_TRUE(random) << random.error().text();
  EXPECT_EQ(random->seed, 4u);
  EXPECT_EQ(random->rate, 0.25);
  EXPECT_THAT(random->kinds, ElementsAre(Kind::stop, Kind::exit));
}

TEST(ChaosText, EveryPointHasItsName) {
  for (std::size_t i = 0; i < static_cast<std::size_t>(Point::count); ++i) {
    const auto point = static_cast<Point>(i);
    EXPECT_EQ(
        faults_of(Kind::kill, fmt::format("rank=0,step=1,point={}", name(point))).list.at(0).point,
        point);
  }
}

TEST(ChaosText, RefusalsSayWhatWouldDo) {
  struct Case {
    Kind kind;
    const char* text;
    const char* named;
  };
  for (const auto& [kind, text, named] : {
           Case{Kind::kill, "", "name=value"},
           Case{Kind::kill, "rank=3", "step=5"},
           Case{Kind::kill, "step=3", "rank=any"},
           Case{Kind::kill, "rank=3,ranks=1,step=1", "rank=any"},
           Case{Kind::kill, "rank=3,rank=1,step=1", "twice"},
           Case{Kind::kill, "rank=-1,step=1", "rank=-1"},
           Case{Kind::kill, "rank=3x,step=1", "rank=3x"},
           Case{Kind::kill, "rank=99999999999,step=1", "2147483647"},
           Case{Kind::kill, "rank=3,step=0", "step=0"},
           Case{Kind::kill, "rank=3,step=1;", "name=value"},
           Case{Kind::kill, "rank=3,step=1,point=nowhere", "after_log"},
           Case{Kind::kill, "rank=3,step=1,at=0", "at=0"},
           Case{Kind::kill, "rank=3,step=1,seed=1", "seed"},
           Case{Kind::kill, "rank=3,step=1,factor=2", "factor"},
           Case{Kind::kill, "ranks=1++2,step=1", "ranks="},
           Case{Kind::exit, "rank=3,step=1,code=256", "255"},
           Case{Kind::slow, "rank=3,step=1", "factor"},
           Case{Kind::slow, "rank=3,step=1,factor=nan", "factor=nan"},
           Case{Kind::slow, "rank=3,step=1,factor=0.5", "0.5"},
           Case{Kind::slow, "rank=3,step=5,factor=2,until=4", "before it begins"},
           Case{Kind::cut, "a=1,step=1", "b="},
           Case{Kind::cut, "a=1,b=2,step=1,ms=0", "ms=0"},
           Case{Kind::cut, "a=1+2,b=2,step=1", "both sides"},
           Case{Kind::cut, "a=1,b=2,rank=3,step=1", "rank"},
           Case{Kind::corrupt, "rank=1,step=1", "what=message"},
       }) {
    const auto faults = parse_faults(kind, {text});
    ASSERT_FALSE(faults) << text;
    const Error& error = faults.error();
    EXPECT_EQ(error.code, Code::usage);
    EXPECT_THAT(error.where, HasSubstr(fmt::format("chaos.{}=", name(kind))));
    EXPECT_THAT(error.text(), HasSubstr(named)) << text;
    EXPECT_FALSE(error.fix.empty());
  }
  for (const char* text : {"", "seed=1", "rate=2", "rate=0.1,kinds=slow", "rate=0.1,kinds="})
    EXPECT_FALSE(parse_random(text)) << text;
}

TEST(ChaosText, RanksThatThereAreNot) {
  EXPECT_TRUE(check_ranks(faults_of(Kind::kill, "rank=3,step=1"), 4));
  EXPECT_FALSE(check_ranks(faults_of(Kind::kill, "rank=4,step=1"), 4));
  EXPECT_FALSE(check_ranks(faults_of(Kind::cut, "a=0,b=4,step=1"), 4));
}

TEST(ChaosWho, IsAgreedUpon) {
  const Who domain{.set = Who::Set::domain, .ranks = {}, .domain = "n1"};
  EXPECT_TRUE(meant(domain, {.world_rank = 2, .world_size = 4, .domain = "n1"}));
  EXPECT_FALSE(meant(domain, {.world_rank = 2, .world_size = 4, .domain = "n2"}));
  std::set<std::int32_t> hit;
  for (std::uint64_t seed = 0; seed < 100; ++seed) {
    int count = 0;
    for (std::int32_t rank = 0; rank < 5; ++rank)
      if (meant({.set = Who::Set::any, .ranks = {}, .domain = "", .seed = seed},
                {.world_rank = rank, .world_size = 5, .domain = ""})) {
        ++count;
        hit.insert(rank);
      }
    EXPECT_EQ(count, 1) << seed;
  }
  EXPECT_EQ(hit.size(), 5u);  // 100 seeds leave one of five out with probability 1e-9
}

TEST(ChaosRandom, ComesAsOftenAsAsked) {
  const RandomFaults random{.seed = 3, .rate = 0.01, .kinds = {Kind::kill, Kind::stop}};
  std::map<Kind, int> kinds;
  std::set<Point> points;
  for (std::int32_t rank = 0; rank < 100; ++rank)
    for (std::int64_t step = 1; step <= 1000; ++step)
      if (const auto one = drawn(random, rank, Step{step})) {
        ++kinds[one->kind];
        points.insert(one->point);
      }
  // Mean 1000, standard deviation 31.5: five of them.
  EXPECT_NEAR(kinds[Kind::kill] + kinds[Kind::stop], 1000, 160);
  EXPECT_NEAR(kinds[Kind::kill], 500, 120);
  EXPECT_EQ(points.size(), static_cast<std::size_t>(Point::after_gather) + 1);
}

TEST(ChaosLasting, SlowAndCut) {
  Faults faults = faults_of(Kind::slow, "ranks=1+2,step=5,factor=3,until=7");
  const Self self{.world_rank = 1, .world_size = 4, .domain = ""};
  for (std::int64_t step = 1; step < 10; ++step)
    EXPECT_EQ(slow_factor(faults, self, Step{step}), step >= 5 && step <= 7 ? 3 : 1) << step;
  EXPECT_EQ(slow_factor(faults, {.world_rank = 0, .world_size = 4, .domain = ""}, Step{5}), 1);

  const Fault apart = faults_of(Kind::cut, "a=0+1,b=2,step=5").list.at(0);
  EXPECT_FALSE(cut(apart, 0, 2, Step{4}));
  EXPECT_TRUE(cut(apart, 0, 2, Step{5}));
  EXPECT_TRUE(cut(apart, 2, 1, Step{500}));
  EXPECT_FALSE(cut(apart, 0, 1, Step{5}));
  EXPECT_FALSE(cut(apart, 3, 2, Step{5}));
  EXPECT_TRUE(cut_at(apart, 2, Step{5}));
  EXPECT_FALSE(cut_at(apart, 3, Step{5}));
}

TEST(ChaosLasting, ACutEndsWithItsStepOrItsTime) {
  Nanoseconds now = 0;
  std::vector<std::string> said;
  const Effects effects{.kill = {},
                        .stop = {},
                        .exit = {},
                        .say = [&](const std::string& text) { said.push_back(text); },
                        .now = [&] { return now; }};
  const Self self{.world_rank = 1, .world_size = 4, .domain = ""};
  Faults faults = faults_of(Kind::cut, "a=0+1,b=2,step=2,ms=500;a=1,b=3,step=3,until=4");
  const Injector injector(faults, self, effects, Step{0});
  const ProbeHook hook = injector.hook();
  const auto cut_off = [&] { return std::pair(injector.cut(2), injector.cut(3)); };
  pass(hook);
  EXPECT_EQ(cut_off(), std::pair(false, false));
  now = kSecond;
  hook(Point::step_begin);
  EXPECT_EQ(cut_off(), std::pair(true, false));
  EXPECT_FALSE(injector.cut(0));
  hook(Point::step_begin);  // run again: the time counts from when it began
  now += 500 * kMillisecond - 1;
  EXPECT_EQ(cut_off(), std::pair(true, false));
  ++now;
  EXPECT_EQ(cut_off(), std::pair(false, false));
  for (const bool third : {true, true, false}) {
    pass(hook);  // the step under way is ended, and so are 3 and 4
    hook(Point::step_begin);
    EXPECT_EQ(cut_off(), std::pair(false, third));
  }
  EXPECT_THAT(said, ElementsAre(HasSubstr("a=0+1,b=2,step=2,ms=500: at rank 1 from step 2 on"),
                                HasSubstr("from step 3 on")));
}

TEST(ChaosInjector, HappensAtItsStepAndHitOnce) {
  Recorder recorder;
  const Injector injector(faults_of(Kind::kill, "rank=1,step=12,point=send_chunk,at=3"),
                          {.world_rank = 1, .world_size = 2, .domain = ""}, recorder.effects(),
                          Step{10});
  const ProbeHook hook = injector.hook();
  for (int step = 11; step <= 13; ++step) {
    for (int chunk = 1; chunk <= 4; ++chunk) {
      if (chunk == 1) hook(Point::step_begin);
      hook(Point::send_chunk);
      EXPECT_EQ(recorder.done.size(), step > 12 || (step == 12 && chunk >= 3) ? 1u : 0u);
    }
    EXPECT_EQ(injector.step(), Step{step});
    hook(Point::after_apply);
  }
  EXPECT_THAT(recorder.done, ElementsAre("kill"));
}

TEST(ChaosInjector, AHangIsOfTheThreadThatIsThere) {
  Recorder recorder;
  const Injector injector(faults_of(Kind::hang, "rank=1,step=2,point=after_forward,at=2"),
                          {.world_rank = 1, .world_size = 2, .domain = ""}, recorder.effects(),
                          Step{0});
  const ProbeHook hook = injector.hook();
  pass(hook);
  hook(Point::step_begin);
  hook(Point::after_forward);
  EXPECT_TRUE(recorder.done.empty());
  hook(Point::after_forward);
  EXPECT_THAT(recorder.done, ElementsAre("hang"));
  hook(Point::after_forward);
  EXPECT_EQ(recorder.done.size(), 1u);
}

TEST(ChaosInjector, OthersAreSpared) {
  Recorder recorder;
  const Injector injector(faults_of(Kind::kill, "rank=1,step=any"),
                          {.world_rank = 0, .world_size = 2, .domain = ""}, recorder.effects(),
                          Step{0});
  pass(injector.hook());
  EXPECT_THAT(recorder.done, ElementsAre());
  const Injector nothing({}, {}, recorder.effects(), Step{0});
  EXPECT_FALSE(nothing.hook());
}

TEST(ChaosInjector, AStepRunAgainKeepsItsNumber) {
  Recorder recorder;
  const Injector injector(
      faults_of(Kind::stop, "rank=0,step=2,point=before_reduce;rank=0,step=3,point=after_apply"),
      {.world_rank = 0, .world_size = 2, .domain = ""}, recorder.effects(), Step{0});
  const ProbeHook hook = injector.hook();
  for (int attempt = 0; attempt < 3; ++attempt) {  // of step 1, broken off before it is applied
    pass(hook, Point::before_commit);
    hook(Point::recover_begin);
    EXPECT_EQ(injector.step(), Step{1});
  }
  pass(hook);
  EXPECT_THAT(recorder.done, ElementsAre());
  pass(hook, Point::after_commit);  // step 2, broken off with its record decided
  EXPECT_THAT(recorder.done, ElementsAre("stop"));
  hook(Point::recover_begin);
  hook(Point::recover_roll_forward);
  hook(Point::recover_begin);  // a further failure: the record is there already
  pass(hook, Point::during_apply);
  EXPECT_EQ(injector.step(), Step{3});
  EXPECT_THAT(recorder.done, ElementsAre("stop"));
  hook(Point::after_apply);
  EXPECT_THAT(recorder.done, ElementsAre("stop", "stop"));
}

TEST(ChaosInjector, RecoveriesAreCountedWithinAStepOrTheRun) {
  Recorder recorder;
  Faults faults = faults_of(Kind::kill, "rank=0,step=2,point=recover_planned,at=2");
  for (const Fault& fault : faults_of(Kind::exit, "rank=0,step=any,point=fill,at=2,code=9").list)
    faults.list.push_back(fault);
  const Injector injector(faults, {.world_rank = 0, .world_size = 2, .domain = ""},
                          recorder.effects(), Step{0});
  const ProbeHook hook = injector.hook();
  pass(hook);
  hook(Point::recover_planned);  // between steps 1 and 2: of step 1
  hook(Point::fill);
  hook(Point::step_begin);
  hook(Point::recover_planned);
  EXPECT_THAT(recorder.done, ElementsAre());
  hook(Point::recover_planned);
  EXPECT_THAT(recorder.done, ElementsAre("kill"));
  hook(Point::fill);
  EXPECT_THAT(recorder.done, ElementsAre("kill", "exit 9"));
}

TEST(ChaosInjector, AStateLoadedInPlaceMovesTheStep) {
  Recorder recorder;
  Injector injector(faults_of(Kind::kill, "rank=0,step=3"),
                    {.world_rank = 0, .world_size = 1, .domain = ""}, recorder.effects(), Step{7});
  injector.at_step(Step{2});
  pass(injector.hook());
  EXPECT_THAT(recorder.done, ElementsAre("kill"));
}

TEST(ChaosInjector, DrawsAtTheDrawnPointOnce) {
  Recorder recorder;
  const RandomFaults random{.seed = 5, .rate = 1, .kinds = {Kind::stop}};
  const Injector injector({.list = {}, .random = random}, {}, recorder.effects(), Step{0});
  const ProbeHook hook = injector.hook();
  for (int attempt = 0; attempt < 2; ++attempt)  // the second runs the same step again
    for (int i = 0; i <= static_cast<int>(Point::after_gather); ++i) {
      if (i == static_cast<int>(Point::after_apply)) continue;
      hook(static_cast<Point>(i));
    }
  const auto one = drawn(random, 0, Step{1});
  ASSERT_TRUE(one);
  EXPECT_EQ(recorder.done.size(), one->point == Point::after_apply ? 0u : 1u);
}

TEST(ChaosInjector, SpoilsOneThing) {
  Injector injector(faults_of(Kind::corrupt, "what=message,rank=0,step=2,at=2"), {}, {}, Step{0});
  const ProbeHook hook = injector.hook();
  pass(hook);
  EXPECT_FALSE(injector.corrupts(Target::message));
  hook(Point::step_begin);
  EXPECT_FALSE(injector.corrupts(Target::copy));
  EXPECT_FALSE(injector.corrupts(Target::message));
  EXPECT_TRUE(injector.corrupts(Target::message));
  EXPECT_FALSE(injector.corrupts(Target::message));
}

int status_of_child(const char* kind, int waits) {
  const pid_t child = ::fork();
  if (child == 0) {
    const Effects effects = process_effects();
    if (std::string_view(kind) == "kill") effects.kill();
    if (std::string_view(kind) == "stop") effects.stop();
    effects.exit(9);
  }
  int status = 0;
  ::waitpid(child, &status, waits);
  if (WIFSTOPPED(status)) {
    ::kill(child, SIGKILL);
    ::waitpid(child, nullptr, 0);
  }
  return status;
}

TEST(ChaosEffects, AreWhatTheySay) {
  const int killed = status_of_child("kill", 0);
  EXPECT_TRUE(WIFSIGNALED(killed) && WTERMSIG(killed) == SIGKILL);
  const int stopped = status_of_child("stop", WUNTRACED);
  EXPECT_TRUE(WIFSTOPPED(stopped) && WSTOPSIG(stopped) == SIGSTOP);
  const int left = status_of_child("exit", 0);
  EXPECT_TRUE(WIFEXITED(left) && WEXITSTATUS(left) == 9);
}

}  // namespace
}  // namespace elaswave::chaos
