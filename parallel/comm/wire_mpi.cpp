#include "parallel/comm/wire_mpi.h"

#include <mpi.h>

#include <algorithm>
#include <array>
#include <csignal>
#include <utility>

#include "parallel/comm/chunk.h"

namespace elaswave::comm {
namespace {

// Abandoned requests are looked at once in so many polls: there may be many, and testing them keeps
// the transport trying to reach the dead (measured to slow everybody over TCP).
constexpr std::uint64_t kGraveyardEvery = 64;

Error mpi_error(std::string_view call, int code) {
  std::array<char, MPI_MAX_ERROR_STRING> text{};
  int length = 0;
  MPI_Error_string(code, text.data(), &length);
  return {.code = Code::unrecoverable,
          .what = fmt::format("{} failed", call),
          .where = "MPI",
          .why = std::string(text.data(), static_cast<std::size_t>(length)),
          .fix = "see the output of mpirun for the first rank that failed"};
}

/// Requests under way and whose they are; parallel arrays because MPI_Testsome wants the requests
/// in a row.
struct RequestList {
  struct Owner {
    Token token = 0;
    bool is_receive = false;
  };
  std::vector<MPI_Request> requests;
  std::vector<Owner> owners;

  void add(MPI_Request request, Owner owner) {
    requests.push_back(request);
    owners.push_back(owner);
  }
  void remove(std::size_t index) {
    requests[index] = requests.back();
    owners[index] = owners.back();
    requests.pop_back();
    owners.pop_back();
  }
};

class MpiWire final : public Wire {
 public:
  MpiWire() {
    MPI_Comm_rank(MPI_COMM_WORLD, &world_rank_);
    MPI_Comm_size(MPI_COMM_WORLD, &size_);
  }

  int world_rank() const override { return world_rank_; }
  int size() const override { return size_; }
  Result<void> start_send(int to, Tag tag, std::span<const std::byte> bytes, Token token) override;
  Result<void> start_receive(int from, Tag tag, std::span<std::byte> buffer, Token token) override;
  Result<void> poll(std::vector<Completion>& completed) override;
  void abandon(Token token) override;
  Result<void> close() override;

 private:
  Result<void> test(RequestList& list, std::vector<Completion>& completed);

  int world_rank_ = 0;
  int size_ = 0;
  RequestList active_;
  RequestList graveyard_;
  std::vector<int> indices_;
  std::vector<MPI_Status> statuses_;
  std::uint64_t polls_ = 0;
};

Result<void> MpiWire::start_send(int to, Tag tag, std::span<const std::byte> bytes, Token token) {
  MPI_Request request = MPI_REQUEST_NULL;
  const int code = MPI_Isend(bytes.data(), static_cast<int>(bytes.size()), MPI_BYTE, to, tag,
                             MPI_COMM_WORLD, &request);
  if (code != MPI_SUCCESS) return fail(mpi_error("MPI_Isend", code));
  active_.add(request, {token, false});
  return {};
}

Result<void> MpiWire::start_receive(int from, Tag tag, std::span<std::byte> buffer, Token token) {
  MPI_Request request = MPI_REQUEST_NULL;
  const int code = MPI_Irecv(buffer.data(), static_cast<int>(buffer.size()), MPI_BYTE, from, tag,
                             MPI_COMM_WORLD, &request);
  if (code != MPI_SUCCESS) return fail(mpi_error("MPI_Irecv", code));
  active_.add(request, {token, true});
  return {};
}

Result<void> MpiWire::poll(std::vector<Completion>& completed) {
  ++polls_;
  if (!graveyard_.requests.empty() && polls_ % kGraveyardEvery == 0)
    EW_TRY(test(graveyard_, completed));
  if (!active_.requests.empty()) return test(active_, completed);
  // MPI_Testsome of nothing does nothing. A probe for a message nobody sends makes Open MPI
  // progress, which small sends that "completed" may need.
  int flag = 0;
  const int code = MPI_Iprobe(world_rank_, kLargestTag, MPI_COMM_WORLD, &flag, MPI_STATUS_IGNORE);
  if (code != MPI_SUCCESS) return fail(mpi_error("MPI_Iprobe", code));
  return {};
}

Result<void> MpiWire::test(RequestList& list, std::vector<Completion>& completed) {
  const std::size_t count = list.requests.size();
  indices_.resize(count);
  statuses_.resize(count);
  int done = 0;
  const int code = MPI_Testsome(static_cast<int>(count), list.requests.data(), &done,
                                indices_.data(), statuses_.data());
  if (code != MPI_SUCCESS && code != MPI_ERR_IN_STATUS)
    return fail(mpi_error("MPI_Testsome", code));
  if (done == MPI_UNDEFINED || done == 0) return {};
  Result<void> outcome;
  for (int i = 0; i < done; ++i) {
    const auto index = static_cast<std::size_t>(indices_[static_cast<std::size_t>(i)]);
    const MPI_Status& status = statuses_[static_cast<std::size_t>(i)];
    if (code == MPI_ERR_IN_STATUS && status.MPI_ERROR != MPI_SUCCESS) {
      outcome = fail(mpi_error("a transfer", status.MPI_ERROR));
      continue;  // the others have completed all the same and must leave the list
    }
    Completion completion{.token = list.owners[index].token, .outcome = Outcome::done, .bytes = 0};
    if (list.owners[index].is_receive) {
      int cancelled = 0;
      MPI_Test_cancelled(&status, &cancelled);
      if (cancelled) completion.outcome = Outcome::cancelled;
      int bytes = 0;
      MPI_Get_count(&status, MPI_BYTE, &bytes);
      completion.bytes = bytes;
    }
    completed.push_back(completion);
  }
  // From the highest index down: what remove() moves into a gap is then never itself completed.
  std::sort(indices_.begin(), indices_.begin() + done, std::greater<>());
  for (int i = 0; i < done; ++i)
    list.remove(static_cast<std::size_t>(indices_[static_cast<std::size_t>(i)]));
  return outcome;
}

void MpiWire::abandon(Token token) {
  const auto found =
      std::find_if(active_.owners.begin(), active_.owners.end(),
                   [token](const RequestList::Owner& owner) { return owner.token == token; });
  if (found == active_.owners.end()) return;
  const auto index = static_cast<std::size_t>(found - active_.owners.begin());
  // Only unmatched receives can be cancelled: a cancelled rendezvous send to a live peer never
  // completes either.
  if (found->is_receive) MPI_Cancel(&active_.requests[index]);
  graveyard_.add(active_.requests[index], *found);
  active_.remove(index);
}

Result<void> MpiWire::close() {
  const int code = MPI_Finalize();
  if (code != MPI_SUCCESS) return fail(mpi_error("MPI_Finalize", code));
  return {};
}

Error tag_error(int largest) {
  return {.code = Code::unavailable,
          .what = "this MPI library has too few message tags",
          .where = "MPI_TAG_UB",
          .why = fmt::format("the largest tag is {}, {} are needed", largest, kLargestTag),
          .fix = "use Open MPI with its default messaging layer (ob1)"};
}

}  // namespace

Result<std::unique_ptr<Wire>> open_mpi_wire() {
  int initialised = 0;
  MPI_Initialized(&initialised);
  EW_CHECK(!initialised, "MPI was initialised before");
  // MPI writes to sockets of dead peers; the default action would end this process too.
  std::signal(SIGPIPE, SIG_IGN);
  const int code = MPI_Init(nullptr, nullptr);
  if (code != MPI_SUCCESS) return fail(mpi_error("MPI_Init", code));
  MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
  int* largest_tag = nullptr;
  int found = 0;
  MPI_Comm_get_attr(MPI_COMM_WORLD, MPI_TAG_UB, static_cast<void*>(&largest_tag), &found);
  if (!found || *largest_tag < kLargestTag) return fail(tag_error(found ? *largest_tag : 32767));
  return std::make_unique<MpiWire>();
}

}  // namespace elaswave::comm
