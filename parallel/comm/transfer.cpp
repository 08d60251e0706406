#include "parallel/comm/transfer.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace elaswave::comm {
namespace {

template <typename Piece>
std::int64_t total_bytes(const std::vector<Piece>& pieces) {
  std::int64_t bytes = 0;
  for (const auto& piece : pieces) bytes += static_cast<std::int64_t>(piece.size());
  return bytes;
}

/// Calls use(part of a piece) for consecutive parts that make up [offset, offset + length) of the
/// concatenation.
template <typename Piece, typename Use>
void walk(const std::vector<Piece>& pieces, PieceCursor& cursor, std::int64_t offset,
          std::int64_t length, const Use& use) {
  if (offset < cursor.begin_bytes) cursor = {};
  while (length > 0) {
    const Piece piece = pieces[cursor.piece];
    const auto piece_bytes = static_cast<std::int64_t>(piece.size());
    const std::int64_t skip = offset - cursor.begin_bytes;
    if (skip >= piece_bytes) {
      cursor.begin_bytes += piece_bytes;
      ++cursor.piece;
      continue;
    }
    const std::int64_t part = std::min(length, piece_bytes - skip);
    use(piece.subspan(static_cast<std::size_t>(skip), static_cast<std::size_t>(part)));
    offset += part;
    length -= part;
  }
}

TransferPtr make_transfer(Direction direction, int peer, Channel channel, Generation generation,
                          Step step) {
  auto transfer = std::make_shared<Transfer>();
  transfer->direction = direction;
  transfer->peer = peer;
  transfer->channel = channel;
  transfer->generation = generation;
  transfer->step = step;
  return transfer;
}

}  // namespace

TransferPtr make_send(int to, Channel channel, Generation generation, ConstPieces pieces,
                      Step step) {
  auto transfer = make_transfer(Direction::send, to, channel, generation, step);
  transfer->bytes = total_bytes(pieces);
  transfer->sources = std::move(pieces);
  return transfer;
}

TransferPtr make_receive(int from, Channel channel, Generation generation, Pieces pieces,
                         Step step) {
  auto transfer = make_transfer(Direction::receive, from, channel, generation, step);
  transfer->bytes = total_bytes(pieces);
  transfer->targets = std::move(pieces);
  return transfer;
}

void gather_bytes(Transfer& send, std::int64_t offset_bytes, std::span<std::byte> out) {
  std::byte* target = out.data();
  walk(send.sources, send.cursor, offset_bytes, static_cast<std::int64_t>(out.size()),
       [&target](std::span<const std::byte> part) {
         std::memcpy(target, part.data(), part.size());
         target += part.size();
       });
}

void scatter_bytes(Transfer& receive, std::int64_t offset_bytes, std::span<const std::byte> in) {
  const std::byte* source = in.data();
  walk(receive.targets, receive.cursor, offset_bytes, static_cast<std::int64_t>(in.size()),
       [&source](std::span<std::byte> part) {
         std::memcpy(part.data(), source, part.size());
         source += part.size();
       });
}

std::string describe(const Transfer& transfer) {
  const bool is_send = transfer.direction == Direction::send;
  const std::int64_t message = transfer.message.load(std::memory_order_relaxed);
  return fmt::format("{} rank {}, channel {}, message {}, {} bytes ({} {}), generation {}",
                     is_send ? "send to" : "receive from", transfer.peer, name(transfer.channel),
                     message < 0 ? "not yet numbered" : fmt::format("{}", message), transfer.bytes,
                     transfer.bytes_done.load(std::memory_order_relaxed),
                     is_send ? "handed over" : "arrived", raw(transfer.generation));
}

Error deadline_error(const Transfer& transfer, int world_rank, std::string_view operation,
                     Nanoseconds waited) {
  return {
      .code = Code::deadline,
      .what = fmt::format("rank {} waited in vain for rank {} in '{}'", world_rank, transfer.peer,
                          operation),
      .where = fmt::format("rank {}, {}", world_rank, describe(transfer)),
      .why = fmt::format("not complete after {:.3f} s, when its deadline passed",
                         static_cast<double>(waited) / static_cast<double>(kSecond)),
      .fix = fmt::format("see what rank {} was doing; when it was only slow, raise comm.timeout_ms",
                         transfer.peer)};
}

Error abandoned_error(const Transfer& transfer, int world_rank, std::string_view operation) {
  return {.code = Code::unrecoverable,
          .what = fmt::format("rank {} waits in '{}' for a transfer that was given up", world_rank,
                              operation),
          .where = fmt::format("rank {}, {}", world_rank, describe(transfer)),
          .why = "a newer view was entered, or an earlier wait failed and ended all transfers",
          .fix = "repeat the step under the current view; see the first error of this rank"};
}

void TransferQueue::push(TransferPtr transfer) {
  Transfer* raw_transfer = transfer.get();
  if (empty())
    head_ = std::move(transfer);
  else
    tail_->next = std::move(transfer);
  tail_ = raw_transfer;
}

TransferPtr TransferQueue::pop() {
  TransferPtr first = std::move(head_);
  head_ = std::move(first->next);
  if (!head_) tail_ = nullptr;
  return first;
}

}  // namespace elaswave::comm
