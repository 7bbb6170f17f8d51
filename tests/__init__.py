from tests import typechecker as typechecker  # pytest's option --jaxtyping-packages looks it up here
