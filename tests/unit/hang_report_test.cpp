// Hang reports: the conclusion from who waits for whom.
#include "parallel/comm/hang_report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <numeric>
#include <string>
#include <vector>

namespace elaswave::comm {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

WaitNote waits(int from, int peer, std::int64_t step = 12, std::string_view activity = "1F3") {
  WaitNote note{.from = from,
                .peer = peer,
                .channel = Channel::pipeline,
                .step = step,
                .waited = 2'400 * kMillisecond};
  note.activity = Activity(Step{step}, activity).text;
  std::string_view("receive activation").copy(note.operation.data(), note.operation.size() - 1);
  return note;
}

std::vector<int> up_to(int size) {
  std::vector<int> ranks(static_cast<std::size_t>(size));
  std::iota(ranks.begin(), ranks.end(), 0);
  return ranks;
}

HangView view(int size, WaitNote own, std::vector<WaitNote> others) {
  HangView made{.live = up_to(size), .own = own, .others = {}, .seen = {}};
  for (const WaitNote& note : others) made.others.push_back({note, 0});
  return made;
}

TEST(HangReport, the_silent_rank_at_the_end_of_the_chain_is_named) {
  HangView known = view(4, waits(0, 2), {waits(2, 3), waits(1, 0)});
  known.seen = {
      {.world_rank = 3, .channel = Channel::gather, .step = Step{11}, .ago = 2 * kSecond}};
  const HangReport report = report_hang(known);
  EXPECT_THAT(report.suspects, ElementsAre(3));
  EXPECT_THAT(report.text,
              AllOf(HasSubstr("rank 3 has not been heard of; last seen 2.0 s ago in step 11, "
                              "channel gather"),
                    HasSubstr("rank 2 waits for rank 3 in 1F3 (receive activation, pipeline, step "
                              "12, receive, for at least 2.4 s)"),
                    HasSubstr("rank 1 waits for rank 0")));
}

TEST(HangReport, a_wait_has_grown_since_its_note_was_found) {
  HangView known = view(3, waits(0, 1), {waits(1, 2)});
  known.others[0].note.direction = Direction::send;
  known.others[0].ago = 3 * kSecond;
  EXPECT_THAT(report_hang(known).text, HasSubstr("step 12, send, for at least 5.4 s)"));
}

TEST(HangReport, the_fix_names_the_suspects) {
  EXPECT_THAT(report_hang(view(3, waits(0, 1), {})).fix,
              HasSubstr("see what rank 1 was doing; when it was only slow"));
  EXPECT_THAT(report_hang(view(6, waits(0, 4), {waits(1, 2), waits(3, 2), waits(4, 5)})).fix,
              HasSubstr("see what ranks 5, 2 were doing; when they were only slow"));
}

TEST(HangReport, the_suspect_this_rank_hangs_on_comes_first) {
  const HangReport report =
      report_hang(view(6, waits(0, 4), {waits(1, 2), waits(3, 2), waits(4, 5)}));
  EXPECT_THAT(report.suspects, ElementsAre(5, 2));
}

TEST(HangReport, a_circle_is_a_circle) {
  const HangReport report = report_hang(view(4, waits(3, 0), {waits(0, 1), waits(1, 0)}));
  EXPECT_THAT(report.text, HasSubstr("ranks wait for one another: 0 -> 1 -> 0"));
  EXPECT_THAT(report.text, Not(HasSubstr("not been heard")));
  EXPECT_THAT(report.suspects, ElementsAre(3, 0, 1));
  EXPECT_THAT(report_hang(view(1, waits(0, 0), {})).text, HasSubstr("0 -> 0"));
}

TEST(HangReport, who_resumed_is_no_waiter) {
  WaitNote resumed = waits(1, 2, 12, "commit");
  resumed.state = NoteState::resumed;
  const HangReport report = report_hang(view(3, waits(0, 1), {resumed}));
  EXPECT_THAT(report.suspects, ElementsAre(1));
  EXPECT_THAT(report.text,
              HasSubstr("rank 1 went on in step 12 (commit) and has told of no wait since"));
}

TEST(HangReport, notes_of_two_steps_ago_are_out_of_date) {
  EXPECT_THAT(report_hang(view(3, waits(0, 1, 12), {waits(1, 2, 11)})).suspects, ElementsAre(2));
  EXPECT_THAT(report_hang(view(3, waits(0, 1, 12), {waits(1, 2, 10)})).suspects, ElementsAre(1));
}

TEST(HangReport, stays_short_and_honest_in_a_large_world) {
  std::vector<WaitNote> others;
  for (int rank = 1; rank < 60; ++rank) others.push_back(waits(rank, rank + 100));
  const HangReport report = report_hang(view(1000, waits(0, 999), std::move(others)));
  EXPECT_EQ(report.suspects.size(), 60u);
  EXPECT_EQ(report.suspects.front(), 999);
  EXPECT_LT(report.text.size(), 4000u);
  EXPECT_THAT(report.fix,
              HasSubstr("ranks 999, 101, 102, 103, 104, 105, 106, 107 and 52 more were doing"));
  EXPECT_THAT(report.text, HasSubstr("likewise 52 ranks more"));
  EXPECT_THAT(report.text, HasSubstr("43 ranks more wait"));
  EXPECT_THAT(report.text, HasSubstr("rank 101 does not tell this rank whether it waits"));
}

TEST(HangReport, who_is_told_hears) {
  for (const int size : {1, 2, 3, 8, 97, 98, 1000}) {
    std::vector<int> live;  // every third rank is gone
    for (int rank = 0; static_cast<int>(live.size()) < size; ++rank)
      if (rank % 3 != 2) live.push_back(rank);
    std::map<int, std::vector<int>> heard;
    for (const int rank : live)
      for (const int to : ranks_told_by(rank, live)) {
        EXPECT_NE(to, rank);
        EXPECT_NE(to % 3, 2) << "told the dead";
        heard[to].push_back(rank);
      }
    for (const int rank : live) {
      auto from = ranks_heard_by(rank, live);
      std::sort(from.begin(), from.end());
      EXPECT_EQ(heard[rank], from);
    }
    EXPECT_LE(heard[0].size(), 96u);
    EXPECT_GE(heard[0].size(), size <= 97 ? static_cast<std::size_t>(size - 1) : 7u);
  }
}

TEST(HangReport, bytes_that_are_no_note_are_none) {
  const WaitNote note = waits(2, 1);
  std::vector<std::byte> bytes(sizeof(note));
  std::memcpy(bytes.data(), &note, sizeof(note));
  ASSERT_TRUE(parse_note(bytes, 2, 3));
  EXPECT_EQ(parse_note(bytes, 2, 3)->peer, 1);
  EXPECT_FALSE(parse_note(bytes, 0, 3)) << "of another sender";
  EXPECT_FALSE(parse_note(bytes, 2, 1)) << "waits for a rank that is not there";
  EXPECT_FALSE(parse_note(std::span(bytes).first(100), 2, 3));
  WaitNote sideways = note;
  sideways.direction = static_cast<Direction>(2);
  EXPECT_FALSE(parse_note(std::as_bytes(std::span(&sideways, 1)), 2, 3));
  bytes[0] ^= std::byte{1};
  EXPECT_FALSE(parse_note(bytes, 2, 3));
}

}  // namespace
}  // namespace elaswave::comm
