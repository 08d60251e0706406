// Messenger: the message protocol, written once and used by every world. Turns messages of any
// length into chunks on a Wire and back: sequence numbers, credits, acknowledgements, checks,
// transport-owned buffers, and what happens to transfers that are given up. The protocol is
// described in README.md. Internal to parallel/comm. THREADS: one at a time.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "io/base/probe.h"
#include "parallel/comm/buffer_pool.h"
#include "parallel/comm/chunk.h"
#include "parallel/comm/drain.h"
#include "parallel/comm/transfer.h"
#include "parallel/comm/wire.h"

namespace elaswave::comm {

enum class Checksum : std::uint8_t { off, on };

struct MessengerOptions {
  std::int64_t control_payload_bytes =
      (16 << 10) - kHeaderBytes;                          // largest chunk of Channel::control
  std::int64_t payload_bytes = (4 << 20) - kHeaderBytes;  // largest chunk of the other channels
  std::int64_t graveyard_limit_bytes = std::int64_t{1} << 30;  // buffers of abandoned requests
  Checksum checksum = Checksum::off;
  ProbeHook probe;  // send_chunk and receive_chunk; called on the messenger's thread
  // Faults on purpose, called on the messenger's thread; empty in a real run. Nothing is sent to a
  // peer that is not reachable: it is held and goes out in order once the peer is. `spoils` is
  // asked once for each message to a peer, when its first bytes are sent; true: one of them changes
  // on its way, after the checksum was made.
  std::function<bool(int peer)> reachable;
  std::function<bool()> spoils;
  // Where messages are recorded, if anywhere; both outlive the messenger.
  FlightLane* flight = nullptr;
  const Clock* clock = nullptr;  // REQUIRES: set when `flight` is
};

class Messenger {
 public:
  /// `wire` may be null: a rank alone, which can only send to itself. It must outlive the
  /// messenger.
  Messenger(Wire* wire, int world_rank, MessengerOptions options);

  /// Starts a transfer. A transfer of another generation than the current one is abandoned at once.
  void submit(const TransferPtr& transfer);

  /// Lets the wire move data and acts on what completed. True when something did.
  bool progress();

  /// Gives up every transfer: their phase becomes `abandoned`, their pieces are never touched
  /// again. Requests under way go to the graveyard with their buffers. Later transfers are given up
  /// at once, until enter().
  void abandon_all();

  /// Enters a newer generation with the ranks `live` (ascending, this one among them): abandons
  /// what is left, restarts all sequences, forgets the failure, and begins to drain what live peers
  /// sent before. progress() does the rest.
  void enter(Generation generation, std::span<const int> live);

  /// Asks for all acknowledgements that are still on their way, so that idle() means nothing is
  /// left on the wire but notes (Channel::watch), which are dropped.
  void flush();

  /// True when no transfer is queued and no request under way (the graveyard does not count).
  bool idle() const { return queued_ == 0 && active_ == 0; }
  /// True when the wire has anything to watch, the graveyard included.
  bool watching() const { return active_ + buried_ > 0; }

  /// Gives up every transfer for the reason `error`; the first reason stays. As abandon_all()
  /// otherwise.
  void fail_all(Error error);

  /// What ended all transfers: headers that disagree, a wire error, a full graveyard. Kept until
  /// enter().
  const std::optional<Error>& failure() const { return failure_; }

  /// What older generations have left between this rank and its live peers: streams of theirs that
  /// may bring something, requests of ours that the transport has not let go.
  std::int64_t undrained() const;
  bool drained() const { return undrained() == 0; }

  std::int64_t messages() const { return messages_; }
  std::int64_t chunks() const { return chunks_; }
  std::int64_t buried_requests() const { return buried_; }
  std::int64_t buried_bytes() const { return buried_bytes_; }
  std::int64_t lent_bytes() const { return pool_.lent_bytes(); }

 private:
  using LaneKey = std::int64_t;  // peer * 8 + channel

  struct Lane {
    int peer = 0;
    Channel channel = Channel::control;
    TransferQueue queue;  // transfers whose last chunk was not started
    std::uint64_t messages = 0;
  };
  struct SendLane : Lane {
    std::uint64_t sent = 0;   // chunks started
    std::uint64_t acked = 0;  // chunks known to be consumed
    std::int64_t flying_bytes = 0;
    bool acknowledgement_posted = false;
  };
  struct ReceiveLane : Lane {
    std::uint64_t posted = 0;    // chunk receives posted
    std::uint64_t consumed = 0;  // all chunks below this one were consumed
    std::uint64_t ahead = 0;     // bit i: chunk consumed + i was consumed out of order
  };
  enum class Role : std::uint8_t {
    none,
    send,
    receive,
    send_acknowledgement,
    receive_acknowledgement,
    stray,  // receive into the void of an older generation
  };
  struct Flight {
    Role role = Role::none;
    bool buried = false;
    bool held = false;  // the wire has not seen it
    int peer = 0;
    Channel channel = Channel::control;
    ChunkKind kind = ChunkKind::data;  // of a stray
    Generation generation{};
    TransferPtr transfer;
    ChunkBuffer buffer;
    std::uint64_t sequence = 0;
    std::uint64_t message = 0;
    std::int64_t offset = 0;
    std::int64_t length = 0;
  };

  /// What a rank tells a peer when it enters a view; further lines follow in a second message.
  struct TellHead {
    static constexpr std::uint32_t kMagic = 0x31445745;  // "EWD1"
    std::uint32_t magic = kMagic;
    std::uint32_t settled_below = 0;
    std::uint32_t lines = 0;
    std::uint32_t zero = 0;
    std::array<StreamCount, 15> first{};
  };
  static_assert(sizeof(TellHead) == 256);
  /// Memory of the messages of Channel::drain to and from one peer, in this generation.
  struct Tell {
    TellHead out, in;
    std::vector<StreamCount> more_out, more_in;
    bool heard_head = false;
  };

  static std::uint64_t acknowledgement_interval(Channel channel);
  std::int64_t payload_limit(Channel channel) const;
  SendLane& send_lane(int peer, Channel channel);
  ReceiveLane& receive_lane(int peer, Channel channel);
  void pump(SendLane& lane);
  void pump(ReceiveLane& lane);
  void start_chunk(SendLane& lane);
  void post_chunk(ReceiveLane& lane);
  void send_acknowledgement(ReceiveLane& lane);
  void want_acknowledgement(SendLane& lane);
  void match_own();
  void record_start(Transfer& transfer);
  void finish(Transfer& transfer);

  Token take_flight(Role role, const Lane& lane, std::int64_t buffer_bytes);
  void free_flight(Token token);
  void launch(Token token, std::int64_t bytes);
  void start(Token token, std::int64_t bytes);
  bool must_hold(int peer) const;
  bool send_held();
  void drop_held();
  void spoil(Flight& flight) const;
  ChunkHeader header_of(const Flight& flight) const;
  void seal(Flight& flight) const;
  static std::uint32_t checksum_of(Flight& flight, ChunkHeader header);

  void complete(const Completion& completion);
  void complete_send(Flight& flight);
  void complete_receive(Flight& flight, std::int64_t bytes);
  void complete_acknowledgement(Flight& flight, std::int64_t bytes);
  std::optional<Error> disagreement(Flight& flight, std::int64_t bytes) const;
  void chunk_finished(Transfer& transfer, std::int64_t bytes);
  void consumed(ReceiveLane& lane, std::uint64_t sequence);
  void give_up(const TransferPtr& transfer);
  void drop(TransferQueue& queue);
  void bury(Token token);
  std::optional<Error> refusal() const;

  bool is_live(int peer) const;
  void close_books();
  void exchange_tells();
  void hear(int peer);
  Error tell_error(int peer, const std::string& why) const;
  void receive_strays(int peer);
  void stray_ended(const Flight& flight, bool received);
  std::optional<Error> stray_disagreement(Flight& flight, std::int64_t bytes) const;
  std::optional<int> peer_behind(Generation generation) const;

  Wire* wire_;
  int world_rank_;
  MessengerOptions options_;
  Generation generation_{};
  bool accepting_ = true;
  bool flushing_ = false;
  std::optional<Error> failure_;

  BufferPool pool_;
  std::vector<Flight> flights_;  // by token
  std::vector<Token> free_tokens_;
  std::map<LaneKey, SendLane> send_lanes_;
  std::map<LaneKey, ReceiveLane> receive_lanes_;
  struct OwnLane {
    TransferQueue sends, receives;
    std::uint64_t sent = 0, received = 0;
  };
  std::map<Channel, OwnLane> own_lanes_;  // messages to oneself
  std::vector<Completion> completed_;

  std::vector<int> live_;  // of the view entered last; empty: everybody, nothing to drain
  Drain drain_;
  std::map<int, Tell> tells_;
  std::map<int, int> strays_;     // under way, by peer
  std::vector<int> told_by_;      // peers a message of Channel::drain has come from
  std::vector<int> stray_moved_;  // peers for whom a receive may be started

  struct Held {
    Token token = 0;
    std::int64_t bytes = 0;
  };
  std::vector<Held> held_;  // sends that a cut holds back, oldest first

  std::int64_t queued_ = 0;  // transfers in lane queues
  std::int64_t active_ = 0;  // requests under way
  std::int64_t buried_ = 0;  // requests given up
  std::int64_t buried_bytes_ = 0;
  std::int64_t messages_ = 0;
  std::int64_t chunks_ = 0;
};

}  // namespace elaswave::comm
