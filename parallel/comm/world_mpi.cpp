#include "parallel/comm/world_mpi.h"

#include <mpi.h>

#include <array>
#include <cstdlib>
#include <string>
#include <utility>

#include "parallel/comm/threaded_world.h"
#include "parallel/comm/wire_mpi.h"

namespace elaswave::comm {

bool started_by_mpi_launcher() {
  // Set by Open MPI's mpirun, by PMIx launchers (srun --mpi=pmix) and by PMI ones.
  for (const char* variable : {"OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "PMI_RANK"})
    if (std::getenv(variable) != nullptr) return true;
  return false;
}

Result<std::unique_ptr<World>> make_mpi_world(MpiOptions options) {
  // Without it Open MPI copies straight between processes (CMA): a stale message then writes past
  // the end of a receive, and reads from a dead peer fail loudly (README). An explicit setting of
  // the user stands. Set before any thread starts.
  setenv("OMPI_MCA_btl_vader_single_copy_mechanism", "none", 0);
  // The fragments of a large message Open MPI keeps on their way; its default of 3 needs both
  // communication threads awake every 96 KB (4 MB there: 9.7 ms; with 16 or more: 2.9 ms).
  setenv("OMPI_MCA_pml_ob1_send_pipeline_depth", "32", 0);
  MessengerOptions messenger;
  messenger.checksum = options.checksum ? Checksum::on : Checksum::off;
  messenger.probe = std::move(options.probe);
  messenger.reachable = std::move(options.reachable);
  messenger.spoils = std::move(options.spoils);
  return make_threaded_world(open_mpi_wire, std::move(messenger), options.flight_capacity);
}

const char* mpi_library_version() {
  static const std::string version = [] {
    std::array<char, MPI_MAX_LIBRARY_VERSION_STRING> text{};
    int length = 0;
    MPI_Get_library_version(text.data(), &length);
    return std::string(text.data(), static_cast<std::size_t>(length));
  }();
  return version.c_str();
}

}  // namespace elaswave::comm
