r"""Stochastic gradient Langevin dynamics (Welling & Teh 2011, ICML).

With u the parameters in unconstrained space and :math:`\hat g` the gradient of their log joint density, estimated from
B of the N rows (drawn anew at each step, the likelihood scaled by N/B),

.. math:: u_{t+1} = u_t + \tfrac{\epsilon_t}{2} \hat g(u_t) + \eta_t, \qquad \eta_t \sim \mathrm{Normal}(0, \epsilon_t)

(their eq. 4). There is no test that rejects, so the draws come from a density near the posterior, nearer the smaller
the step. Where the posterior is normal with precision :math:`\lambda` in a direction and the rows' gradients vary as
that precision says, the variance there is too large by

.. math:: \delta \approx \tfrac{\epsilon \lambda}{4} (1 + N/B)

(1 for the discrete time, N/B for the batches, which falls away where all rows are used; Mandt, Hoffman & Blei 2017,
J. Mach. Learn. Res. 18, sec. 3, and Vollmer, Zygalakis & Teh 2016, J. Mach. Learn. Res. 17, say the same of it). The
largest :math:`\lambda` is found at the starts by power iteration, and the step chosen so that there
:math:`\delta` is 5 %: everywhere else it is less.

One step for all directions is a slow walk where their :math:`\lambda` differ by much, as a network's do. So u is
measured in units of :math:`1 / \sqrt{F + 1}`, F the diagonal of the empirical Fisher information at the starts
(:math:`N` times the variance of a row's gradient): a change of variables, which leaves the density that is drawn from
as it is (Welling & Teh, sec. 6, name such a preconditioner; Li et al. 2016, arXiv:1512.07666, adapt one).

Chains start at EM solutions of their own where the pair has the hooks. Else, as with networks, each climbs from the
pair's initial values by Adam first. Steps may shrink as :math:`\epsilon_t = \epsilon (1 + t / t_0)^{-\gamma}`; draws
are then kept at equal distances of :math:`\sum \epsilon_t`, so that all count the same (their sec. 4.2).

Where a guide q proposes local latents z_i (an encoder, of weights :math:`\phi`), the likelihood of a row has no closed
form, and its bound of K particles stands for it:

.. math::
    L_i(\theta) = \mathrm{E} \log \frac1K \sum_{k=1}^K w_{ik}, \qquad
    w_{ik} = \frac{p(x_i, z_{ik} \mid \theta)}{q(z_{ik} \mid x_i, \phi)}, \quad z_{ik} \sim q(\cdot \mid x_i, \phi)

(Burda, Grosse & Salakhutdinov 2016, arXiv:1509.00519, eq. 8; the ELBO where K is 1). :math:`\phi` has no prior: it is
trained by these bounds in the climb, goes on to learn through the warm-up with a rate that falls to 0, and is then held
fixed, a :math:`\phi` for each chain. The draws come from near

.. math:: \pi_K(\theta) \propto \exp\Bigl(\log p(\theta) + \sum_i L_i(\theta)\Bigr)

of which fresh particles at each step give the gradient without bias. As :math:`L_i \to \log p(x_i \mid \theta)` when K
grows, it tends to the posterior. With K = 1 it is narrower, since latents that :math:`\phi` has fixed say more of
:math:`\theta` than rows do; what is missing falls as 1/K.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from ppl_gen.inference.sgld.walking import Walking

__all__ = ["SGLD"]


@dataclasses.dataclass(frozen=True)
class SGLD(Walking):
    """Settings of stochastic gradient Langevin dynamics.

    :param num_samples: draws kept per chain.
    :param num_warmup: steps before the first of them.
    :param num_chains: independent chains.
    :param thinning: steps from one kept draw to the next.
    :param batch_size: rows per step; None: all rows up to 1,000, else 500.
    :param precondition: walk in units of the Fisher information's diagonal (tables of 20 rows or more).
    :param step_size: the first step, the variance of its noise in these units; None: such that the variance in the
        stiffest direction is overstated by 5 %; half of it, up to six times, where chains run away at that.
    :param decay: the exponent with which steps shrink, from 0 (they do not) to 1.
    :param decay_start: the number of steps after which they begin to.
    :param num_pilot: steps of Adam that each chain climbs first, where the pair has no EM.
    :param learning_rate: Adam's, at first; it goes to 0 along a cosine.
    :param num_starts: k-means starts per chain, the best EM solution of which the chain starts from.
    :param num_particles: of local latents, as a vae has them: K, particles of the bound that stands for the likelihood;
        None: 16.
    """

    name: ClassVar[str] = "sgld"
    title: ClassVar[str] = "stochastic gradient Langevin dynamics: draws from near the posterior"
