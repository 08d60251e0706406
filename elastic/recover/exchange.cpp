#include "elastic/recover/exchange.h"

#include <algorithm>

namespace elaswave::recover {

Result<std::vector<RankInventory>> exchange_inventories(comm::World& world,
                                                        const comm::Group& group,
                                                        const RankInventory& mine,
                                                        Deadline deadline) {
  std::vector<std::int64_t> words = to_words(mine);
  const auto length = static_cast<std::int64_t>(words.size());
  const auto members = static_cast<std::size_t>(group.size());
  std::vector<std::int64_t> lengths(members);
  EW_TRY(comm::all_gather(world, group, std::as_bytes(std::span(&length, 1)),
                          std::as_writable_bytes(std::span(lengths)), "inventory lengths",
                          deadline));
  const auto longest = static_cast<std::size_t>(*std::max_element(lengths.begin(), lengths.end()));
  words.resize(longest);
  std::vector<std::int64_t> all(members * longest);
  EW_TRY(comm::all_gather(world, group, std::as_bytes(std::span(words)),
                          std::as_writable_bytes(std::span(all)), "inventories", deadline));
  std::vector<RankInventory> table;
  for (std::size_t i = 0; i < members; ++i) {
    EW_ASSIGN(RankInventory inventory, from_words(std::span(all).subspan(
                                           i * longest, static_cast<std::size_t>(lengths[i]))));
    table.push_back(std::move(inventory));
  }
  return table;
}

}  // namespace elaswave::recover
